"""Replays as functions: the configuration, the assembly and the files are those of `python -m sim run`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict

from policies.base import Allocation, Part, Policy
from sim.assembly.build import PARTS
from sim.assembly.compose import compose_run
from sim.errors import sentence_of
from sim.formatting import DEPTHS, of_layers
from sim.group_files import quoted
from sim.results.run_files import load_run
from sim.results.summary import text
from sim.rule_files import file_target, part_name, rules_in, target_of
from sim.run.execute import run_device
from sim.statistics.pairs import compare
from traces.embedded import embedded_names, trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Trace
from traces.text import printable
from traces.whole_file import check_folder

PathLike = str | Path
RuleLike = str | Policy | Part | Allocation | type | Mapping[str, Any]
_loaded: dict[str, str] = {}
"""Content hash of a trace that was loaded here -> where it came from."""


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
    _loaded[found.content_hash] = str(trace) if str(trace) in embedded_names() else str(path.absolute())
    return found


@dataclass(frozen=True)
class Result:
    """A finished replay: its metrics, its tables, and the folder that `python -m sim run` would have written.

    A copy, in another process too (pickle, joblib), has a folder of its own unless the replay had a name for it.
    """

    folder: Path
    """metrics.json, steps.parquet, requests.parquet, blocks.parquet, provenance.json."""
    summary: str
    """The table that the command prints."""
    kept: Any = None
    """Keeps a temporary folder until the result is gone."""

    @cached_property
    def metrics(self) -> dict[str, float | int | str | None]:
        """Name -> value; docs/metrics.md says what each is. Times are SIMULATED."""
        found: dict[str, float | int | str | None] = json.loads((self.folder / "metrics.json").read_text())
        return found

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the result comes from: configuration, hashes, versions, what in it is ESTIMATED."""
        found: dict[str, Any] = json.loads((self.folder / "provenance.json").read_text())
        return found

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step: request, phase, times in ns by part, counts."""
        return pd.read_parquet(self.folder / "steps.parquet")

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: its times in s, its number in the whole trace."""
        return pd.read_parquet(self.folder / "requests.parquet")

    @property
    def name(self) -> str:
        """The policy's name."""
        return str(self.provenance["policy"])

    def __reduce__(self) -> tuple[Any, ...]:
        if self.kept is None:
            return Result, (self.folder, self.summary)
        files = {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}
        return _with_files, (files, self.summary)

    def compare(self, other: Result, metric: str = "tpot_s.mean") -> pd.DataFrame:
        """This result against another on the same requests: difference and ratio with 95 % intervals, one row.

        Columns: see `sim.statistics.pairs.compare`. Raises: UserError where the requests differ, or for a metric that
        is not known.
        """
        if not isinstance(other, Result):
            raise UserError(f"compare: {printable(repr(other))} is no result: must be what sim.replay gave")
        against = other.name if other.name != self.name else f"{other.name} (other)"
        runs = [load_run(self.folder, self.name), load_run(other.folder, against)]
        return compare(runs, metric, against)

    def plot(self, figure: str, *others: Result, **options: Any) -> Figure:
        """A figure of this result, and of others beside it, by its name in `python -m sim plot --help`.

        Raises: UserError for an unknown figure, or where the runs lack what it shows.
        """
        from sim.figures.measures import add_measures
        from sim.figures.registry import check_name, figures_of
        from sim.figures.run_settings import add_settings
        from sim.results.table import table_of

        check_name(figure)
        for other in others:
            if not isinstance(other, Result):
                raise UserError(f"plot: {printable(repr(other))} is no result: must be what sim.replay gave")
        table = add_measures(add_settings(table_of(self.folder, [self.folder, *(one.folder for one in others)])))
        ((_, drawn),) = figures_of(self.folder, [figure], 1, table, **options)
        return drawn

    def __str__(self) -> str:
        return self.summary

    def __repr__(self) -> str:
        hits, tpot = self.metrics["decode.hit_rate"], self.metrics.get("tpot_s.mean")
        rate = "" if not isinstance(hits, float) else f", decode hit rate {hits:.1%}"
        layers = of_layers(*(self.provenance.get(name) for name in DEPTHS))
        time = "" if not isinstance(tpot, float) else f", TPOT {1e3 * tpot:.3f} ms {layers} SIMULATED"
        return f"<Result {self.name}{rate}{time}>"


def _new_folder() -> tuple[Any, Path]:
    """(what keeps it, a temporary folder)."""
    kept = tempfile.TemporaryDirectory(prefix="moe-sim-")
    return kept, Path(kept.name)


def _with_files(files: Mapping[str, bytes], summary: str) -> Result:
    """A result whose files lie in a new temporary folder."""
    kept, folder = _new_folder()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Result(folder, summary, kept)


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
    >>> fifo.provenance["batch_size"], fifo.provenance["config"]["time"]["host"]
    (2, False)

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
    words, given = _trace_words(trace)
    parts: dict[str, Any] = {}
    if isinstance(policy, Policy):
        words.append("policy=lru")
    else:
        more, parts = _policy_words(policy)
        words += more
    for group, value in (("hardware", hardware), ("runtime", runtime)):
        words += _group_words(group, value)
    words += _cache_words(cache)
    words += [] if model is None else [f"model={quoted(str(model))}"]
    words += [] if "engine" in settings else ["engine=compiled"]
    words += _setting_words(settings)
    config = _composed(words)
    _put_parts(config, parts)
    if isinstance(policy, Policy):
        with open_dict(config):
            config.policy = _policy_node(policy)
    if config.system.get("name") != "device":
        raise UserError(f"system={config.system.get('name')}: sim.replay replays on system=device; `run` knows others")
    if out is None:
        kept, folder = _new_folder()
    else:
        if not isinstance(out, str | Path) or not str(out):
            raise UserError(f"out={out!r}: must be the name of a folder, and not an empty one")
        kept, folder = None, Path(out)
        check_folder(folder)
        if (folder / "metrics.json").exists():
            raise UserError(f"out={folder}: holds the results of a run already: must be another folder")
    done = run_device(config, folder, given)
    return Result(folder, text(done.replay, done.metrics, done.what_if, requests=done.requests), kept)


def _composed(words: list[str]) -> DictConfig:
    """The configuration. Raises: UserError with what the command would print."""
    try:
        return compose_run(*words)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _trace_words(trace: Trace | PathLike) -> tuple[list[str], Trace | None]:
    """(overrides, the trace if it is in memory)."""
    if not isinstance(trace, Trace):
        return _named_trace(str(trace)), None
    source = _loaded.get(trace.content_hash.partition("/")[0])
    return (["trace.path=memory"] if source is None else _named_trace(source)), trace


def _named_trace(name: str) -> list[str]:
    return [f"trace={name}"] if name in embedded_names() else [f"trace.path={quoted(name)}"]


def _policy_words(policy: Any) -> tuple[list[str], dict[str, Any]]:
    """(overrides, rules that are objects by part)."""
    if isinstance(policy, str | Path):
        name = str(policy)
        if ".py" not in name:
            return [f"policy={quoted(name)}"], {}
        where = file_target(name)
        if where is None:
            return [f"policy={quoted(name)}"], {}
        rules = [rule for rule in rules_in(where[0], name) if where[1] in (None, rule.__name__)]
        if len(rules) != 1:
            raise UserError(f"policy={name}: the file must define one rule, or name it as {where[0]}:CLASS")
        return ["policy=lru", f"policy/{part_name(rules[0])}={quoted(name)}"], {}
    if isinstance(policy, Mapping):
        words, parts = [f"policy={quoted(str(policy.get('base', 'lru')))}"], {}
        for part, rule in policy.items():
            if part == "base":
                continue
            if part not in PARTS:
                raise UserError(f"policy: {part} is no part: parts are base, {', '.join(PARTS)}")
            if isinstance(rule, str | Path):
                words.append(f"policy/{part}={quoted(str(rule))}")
            else:
                parts[part] = rule
        return words, parts
    rule = policy if isinstance(policy, type) else type(policy)
    if not issubclass(rule, Part | Allocation):
        raise UserError(f"policy={policy!r}: must be a name, a file, a Policy, a rule, or a mapping of parts to rules")
    return ["policy=lru"], {part_name(rule): policy}


def _put_parts(config: DictConfig, parts: Mapping[str, Any]) -> None:
    for part, rule in parts.items():
        with open_dict(config):
            config.policy[part] = _rule_node(rule, part)


def _rule_node(rule: Any, part: str) -> DictConfig:
    """What a file of `policy/PART` says of a rule."""
    base = PARTS[part]
    cls = rule if isinstance(rule, type) else type(rule)
    if not issubclass(cls, base):
        raise UserError(f"policy.{part}={cls.__name__}: must be derived from {base.__module__}.{base.__name__}")
    target = target_of(cls)
    knobs = {} if isinstance(rule, type) else {knob.name: getattr(rule, knob.name) for knob in fields(rule)}
    return OmegaConf.create({"_target_": target, **knobs})


def _policy_node(policy: Policy) -> DictConfig:
    """The group `policy` of a policy that is an object."""
    plain = ("name", "residency", "write_back", "scope", "start", "runtime")
    node: dict[str, Any] = {name: getattr(policy, name) for name in plain}
    node["alpha"] = policy.substitution.band()
    return OmegaConf.create(node | {part: _rule_node(getattr(policy, part), part) for part in PARTS})


def _group_words(group: str, value: Any) -> list[str]:
    """Overrides of a machine or runtime."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{group}.{name}={_written(figure)}" for name, figure in value.items()]
    return [f"{group}={quoted(str(value))}"]


def _setting_words(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """Overrides of settings by name; a mapping holds those of a group."""
    words = []
    for name, value in settings.items():
        key = f"{above}{str(name).replace('__', '.')}"
        if key.partition(".")[0] == "hydra":
            raise UserError(f"{key}: a setting of the command alone; out=FOLDER names where results go")
        words += _setting_words(value, f"{key}.") if isinstance(value, Mapping) else [f"{key}={_written(value)}"]
    return words


def _cache_words(cache: Any) -> list[str]:
    if cache is None:
        return []
    if isinstance(cache, Mapping):
        return [f"cache.{name}={_written(value)}" for name, value in cache.items()]
    return [f"cache.fraction={_written(cache)}"]


def _written(value: Any) -> str:
    """A value as an override writes it. Raises: UserError for one of another kind."""
    if value is None:
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, Integral):  # numpy's, too
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, str | Path):
        return quoted(str(value))
    raise UserError(
        f"{printable(repr(value))}: must be a number, a text, a path, true or false, None, or a list of them"
    )
