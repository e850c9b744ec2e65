"""Replays as functions: the configuration, the assembly and the files are those of `python -m sim run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from policies.base import Policy
from sim.assembly.compose import compose_run
from sim.errors import sentence_of
from sim.group_files import PARTS, quoted
from sim.library.result import Result, new_folder
from sim.library.words import (
    PathLike,
    RuleLike,
    cache_words,
    exchanged_parts,
    group_words,
    loaded,
    policy_node,
    policy_words,
    put_parts,
    setting_words,
    trace_words,
)
from sim.results.summary import text
from sim.run.execute import run_device
from traces.embedded import embedded_names, trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Trace
from traces.whole_file import check_folder


def load_trace(trace: PathLike) -> Trace:
    """A trace file, or the embedded trace of that name.

    Raises: UserError for a file that is no valid trace.

    >>> import sim
    >>> trace = sim.load_trace("demo")
    >>> trace.num_requests, trace.num_layers, trace.num_experts, trace.top_k
    (24, 6, 64, 6)
    >>> trace.select_requests(2).num_requests
    2
    """
    path = trace_path(str(trace))
    found = read_trace(path)
    loaded[found.content_hash] = str(trace) if str(trace) in embedded_names() else str(path.absolute())
    return found


def replay(
    trace: Trace | PathLike = "demo",
    policy: RuleLike = "importance",
    hardware: PathLike | Mapping[str, Any] | None = None,
    runtime: PathLike | Mapping[str, Any] | None = None,
    cache: float | Mapping[str, Any] | None = None,
    model: PathLike | None = None,
    out: PathLike | None = None,
    **settings: Any,
) -> Result:
    """Replay a trace under a policy on a modelled machine, as `python -m sim run` does, by default on engine=compiled.

    ``trace``: a `Trace`, a file, or the name of an embedded one. ``policy``: a name, a yaml, a `Policy`; or a rule (its
    class, an instance of it, or `path/to/rule.py`) that takes the place of its part in `lru`; or a mapping of parts to
    rules, with `base` the name of the policy that they change. ``hardware``, ``runtime``: a name, a yaml, or figures
    that replace those of the default; ``cache``: the fraction of experts that fits, or knobs by name. ``settings``: all
    other keys of the configuration, nested ones with two underscores for the dot or as a mapping:
    ``batch_size=4, time__host=False, trace={"fit_requests": 2}``.
    ``out``: a folder for the results; else a temporary one.

    Raises: UserError where something is not known or cannot be replayed.

    >>> import sim
    >>> trace = sim.load_trace("demo").select_requests(4)
    >>> lru = sim.replay(trace, policy="lru", cache=0.25)
    >>> smoe = sim.replay(trace, policy="importance", cache=0.25)
    >>> lru.metrics["hit_rate"] < smoe.metrics["cache_ratio"]
    True
    >>> len(lru.requests), len(lru.steps)
    (4, 512)
    >>> row = smoe.compare(lru).iloc[0]
    >>> row["series"], row["against"], bool(row["ratio"] < 1)
    ('importance', 'lru', True)
    >>> fifo = sim.replay(trace, policy={"base": "lru", "eviction": "fifo"}, batch_size=2, time__host=False)
    >>> fifo.name, fifo.provenance["batch_size"], fifo.provenance["config"]["time"]["host"]
    ('lru eviction=fifo', 2, False)

    A rule of one's own, as a class:

    >>> from dataclasses import dataclass
    >>> from policies.base import Eviction
    >>> @dataclass(frozen=True)
    ... class MostRecent(Eviction):
    ...     def touch(self, state, memory):
    ...         for i in range(state.num_executed):
    ...             state.priority[state.layer, state.executed[i]] = -state.now
    >>> sim.replay(trace, policy=MostRecent).metrics["hit_rate"] < lru.metrics["hit_rate"]
    True
    """
    for name in settings:
        if name in PARTS:
            base = repr(policy) if isinstance(policy, str) else "NAME"
            raise UserError(
                f'{name} is a part of a policy: policy={{"base": {base}, "{name}": {settings[name]!r}}} exchanges it'
            )
    words, given = trace_words(trace)
    parts: dict[str, Any] = {}
    if isinstance(policy, Policy):
        words.append("policy=lru")
    else:
        more, parts = policy_words(policy)
        words += more
    for group, value in (("hardware", hardware), ("runtime", runtime)):
        words += group_words(group, value)
    words += cache_words(cache)
    words += [] if model is None else [f"model={quoted(str(model))}"]
    words += [] if "engine" in settings else ["engine=compiled"]
    words += setting_words(settings)
    config = _composed(words)
    put_parts(config, parts)
    if isinstance(policy, Policy):
        with open_dict(config):
            config.policy = policy_node(policy)
    if config.system.get("name") != "device":
        raise UserError(f"system={config.system.get('name')}: sim.replay replays on system=device; `run` knows others")
    if out is None:
        kept, folder = new_folder()
    else:
        if not isinstance(out, str | Path) or not str(out):
            raise UserError(f"out={out!r}: must be the name of a folder, and not an empty one")
        kept, folder = None, Path(out)
        check_folder(folder)
        if (folder / "metrics.json").exists():
            raise UserError(f"out={folder}: holds the results of a run already: must be another folder")
    done = run_device(config, folder, given)
    summary = text(done.replay, done.metrics, done.what_if, requests=done.requests)
    return Result(folder, summary, kept, exchanged_parts(policy))


def _composed(words: list[str]) -> DictConfig:
    """The configuration. Raises: UserError with what the command would print."""
    try:
        return compose_run(*words)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error
