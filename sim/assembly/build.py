"""The one place where a configuration becomes objects: trace, policy, machine, capacity, engine."""

from __future__ import annotations

import importlib
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from policies.base import Allocation, Policy
from policies.needs import Need
from sim.assembly.notes import describe_replay
from sim.assembly.replay import DeviceSetup, Notes, Replay, assemble
from sim.config import RunConfig, TimeConfig, TraceConfig, suggest, to_plain_dict, validate
from sim.engine.decision.device import BASES
from sim.machine.capacity import CacheConfig
from sim.machine.geometry import resolve_geometry
from sim.machine.hardware import hardware_from_config
from sim.predictors.checkpoint import checkpoint_of, require_trained
from sim.predictors.split import count_learned_last
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Trace

PARTS: dict[str, type] = BASES | {"allocation": Allocation}
GROUPS = ("trace", "model", "hardware", "policy", "engine", "system", "cache", "time", "sweep")
KNOBS = tuple(knob.name for knob in fields(RunConfig) if knob.name != "engine")


def check_keys(config: DictConfig) -> None:
    """Raises UserError for a top-level key that is missing or that nobody reads."""
    for name in config:
        if name not in (*GROUPS, *KNOBS):
            raise UserError(f"{name!s} is not a key of the configuration: {suggest(name, (*GROUPS, *KNOBS))}")
    for name in (*GROUPS, *KNOBS):
        if name not in config:
            raise UserError(f"{name} is missing from the configuration")
    for name in (*(f"policy.{part}" for part in BASES), "policy.name", "policy.residency", "engine.name"):
        if OmegaConf.select(config, name) is None:
            raise UserError(f"{name} is missing from the configuration")


def open_trace(config: TraceConfig) -> Trace:
    """The configured trace, whole or only the requests of some labels. A process opens and checks a file once.

    Raises: UserError for a file that is no trace, and for labels that no request carries.
    """
    path = embedded_trace_path(config.embedded or "demo") if config.path is None else Path(config.path)
    labels = None if config.labels is None else tuple(config.labels)
    try:
        status = path.stat()
    except OSError:
        return read_trace(path)  # says what is wrong
    return _open(path, config.path is not None, labels, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _open(path: Path, check_rows: bool, labels: tuple[str, ...] | None, changed_ns: int, size: int) -> Trace:
    trace = read_trace(path, check_rows=check_rows)
    return trace if labels is None else trace.select_labels(labels)


def open_requests(config: Any) -> Trace:
    """The requests that a `trace` group chooses, for what replays them and learns from no others."""
    trace_config = validate(TraceConfig, to_plain_dict(config, "trace"), "trace.")
    trace = open_trace(trace_config)
    return trace if trace_config.requests is None else trace.select_requests(trace_config.requests)


def split_requests(trace: Trace, config: TraceConfig, policy: Policy) -> tuple[Trace, Trace | None, list[str]]:
    """(the requests to replay, those to learn from or None, notes); the two never overlap.

    Raises: UserError where the trace has too few requests.
    """
    total, held = trace.num_requests, config.fit_requests
    if config.requests is not None and config.requests > total - (held or 0):
        less = f" of which trace.fit_requests={held} are held out" if held else ""
        raise UserError(f"trace.requests={config.requests}: the trace has {total} requests{less}")
    if held is not None and held >= total:
        raise UserError(f"trace.fit_requests={held}: must be below the trace's {total} requests")
    learner, notes = policy.needs().get(Need.FIT), []
    learns = learner is not None
    if held is None and config.requests is not None:
        held = total - config.requests
    elif held is None:
        held = count_held_out(trace, policy)
        if held and total > 1:
            notes = [
                f"{learner or policy.needs()[Need.FORECAST]} learned from the last {held} requests, which are not "
                f"replayed: compare with "
                f"policies run with trace.fit_requests={held}"
            ]
    if learns and (held == 0 or total == held):
        raise UserError(
            f"policy {policy.name}: {learner} learns from requests that are not replayed, and there are "
            "none: give trace.fit_requests=N, or a trace with more requests"
        )
    replayed = trace.select_requests(config.requests or total - held)
    return replayed, trace.select_requests(held, total - held) if learns else None, notes


def count_held_out(trace: Trace, policy: Policy) -> int:
    """How many of the last requests a policy learns or has learned from: a quarter, or all that its predictor saw."""
    needs = policy.needs()
    quarter = -(-trace.num_requests // 4) if Need.FIT in needs else 0
    if Need.FORECAST not in needs:
        return quarter
    return max(quarter, count_learned_last(trace, checkpoint_of(require_trained(policy.prediction)).training))


def make_part(name: str, config: DictConfig) -> Any:
    """One part of a policy from its ``_target_`` and knobs."""
    values = to_plain_dict(config, f"policy.{name}")
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise UserError(f"policy.{name}._target_={target}: must name a class, as policies.{name}.<rule>.<Class>")
    try:
        module, _, name_of_class = target.rpartition(".")
        cls = getattr(importlib.import_module(module), name_of_class)
    except Exception as error:
        raise UserError(f"policy.{name}._target_={target}: cannot be imported: {error}") from error
    base = PARTS[name]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"policy.{name}._target_={target}: must be a subclass of {base.__module__}.{base.__name__}")
    return validate(cls, values, f"policy.{name}.")


def make_policy(config: DictConfig) -> Policy:
    """The policy of the ``policy`` group."""
    built = {name: make_part(name, config[name]) for name in PARTS if name in BASES or config.get(name) is not None}
    return Policy(
        name=str(config.name),
        residency=str(config.residency),
        write_back=str(config.get("write_back", "none")),
        **built,
    )


def read_device(config: DictConfig, run: RunConfig) -> DeviceSetup:
    """The objects of the groups `policy`, `hardware`, `cache` and `time`. Raises: UserError where one is no group."""
    return DeviceSetup(
        cache=validate(CacheConfig, to_plain_dict(config.cache, "cache"), "cache."),
        time=validate(TimeConfig, to_plain_dict(config.time, "time"), "time."),
        policy=make_policy(config.policy),
        hardware=hardware_from_config(to_plain_dict(config.hardware, "hardware")),
        run=run,
    )


def build(config: DictConfig) -> Replay:
    """Objects for one replay. Raises UserError before any work where the configuration cannot be run."""
    for name in GROUPS:
        to_plain_dict(config.get(name), name)
    check_keys(config)
    knobs = {name: config[name] for name in KNOBS} | {"engine": config.engine.name}
    setup = read_device(config, validate(RunConfig, knobs))
    trace_config = validate(TraceConfig, to_plain_dict(config.trace), "trace.")
    trace, others, notes = split_requests(open_trace(trace_config), trace_config, setup.policy)
    geometry, estimated, warnings = resolve_geometry(trace, trace_config, to_plain_dict(config.model))
    replay = assemble(trace, setup, geometry, trace_config.as_decode, others)
    return replace(replay, notes=Notes((*estimated,), (*warnings, *notes)) + describe_replay(replay))
