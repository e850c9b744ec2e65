"""The one place where a configuration becomes objects: trace, policy, machine, capacity, engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from hydra.utils import get_class
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from policies.base import Assignment, Eviction, Policy, Prediction, Prefetch, Substitution
from sim.capacity import CacheConfig, Pools, make_pools
from sim.combinations import check_combination
from sim.config import RunConfig, TraceConfig, checked
from sim.durations import Durations, tabulate
from sim.engine.device import Device, DeviceSpec
from sim.engine.future import next_use
from sim.geometry import resolve_geometry
from sim.hardware import Hardware, hardware_from_config
from sim.needs import check_needs, wants_scores
from sim.rows import RowReader
from sim.steps import Schedule, Step
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.files import read_trace
from traces.trace import Geometry, Trace

StepResult = tuple[Step, int | None, NDArray[np.int64] | None]
"""A step with its latency in ns and its ns by part; None where the replay has no clock."""


@dataclass(slots=True)
class Replay:
    """Everything one replay consists of. ``steps`` runs it; results accumulate in ``device``."""

    trace: Trace
    geometry: Geometry
    policy: Policy
    hardware: Hardware
    pools: Pools
    cache: CacheConfig
    run: RunConfig
    schedule: Schedule
    durations: Durations
    device: Device
    reader: RowReader
    estimated: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    link_busy_ns: int = 0
    cpu_busy_ns: int = 0

    @property
    def timed(self) -> bool:
        return self.cache.overflow == "stream" and self.cache.semantics == "step"

    def steps(self) -> Iterator[StepResult]:
        """Replay the trace step by step."""
        return self._timed_steps() if self.timed else self._untimed_steps()

    def _timed_steps(self) -> Iterator[StepResult]:
        from sim.engine.simpy_engine import SimpyEngine

        engine = SimpyEngine(self.device, self.durations, self.reader)
        for result in engine.replay(self.schedule):
            self.link_busy_ns, self.cpu_busy_ns = engine.link_busy_ns, engine.cpu_busy_ns
            yield result

    def _untimed_steps(self) -> Iterator[StepResult]:
        from sim.engine.untimed import untimed_step

        device, sequential = self.device, self.cache.semantics == "sequential"
        for step in self.schedule:
            arguments = self.reader.read(step.rows).arguments()
            untimed_step(device.state, device.machine, device.rules, step.phase, sequential, *arguments)
            yield step, None, None


GROUPS = ("trace", "model", "hardware", "policy", "engine", "cache")
KNOBS = ("batch_size", "seed", "timeline")


def plain(config: Any, name: str = "config") -> dict[str, Any]:
    """A resolved configuration group as a plain dict. Raises UserError where it is no group."""
    if config is None:
        raise UserError(f"{name} is missing from the configuration")
    if not isinstance(config, DictConfig):
        raise UserError(f"{name}={config}: must be a group of knobs, not a value")
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def check_keys(config: DictConfig) -> None:
    """Raises UserError for a top-level key that is missing or that nobody reads."""
    for name in config:
        if name not in (*GROUPS, *KNOBS):
            raise UserError(f"{name!s} is not a key of the configuration: known are {', '.join((*GROUPS, *KNOBS))}")
    for name in (*GROUPS, *KNOBS):
        if name not in config:
            raise UserError(f"{name} is missing from the configuration")
    for name in (*(f"policy.{part}" for part in PARTS), "policy.name", "policy.residency", "engine.name"):
        if OmegaConf.select(config, name) is None:
            raise UserError(f"{name} is missing from the configuration")


def open_trace(config: TraceConfig) -> Trace:
    """The configured trace, whole."""
    path = embedded_trace_path(config.embedded or "demo") if config.path is None else Path(config.path)
    return read_trace(path, check_rows=config.path is not None)


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
    learns, notes = "fit" in policy.needs(), []
    if held is None:
        held = total - config.requests if config.requests is not None else -(-total // 4) if learns else 0
        if learns and config.requests is None and total > 1:
            notes = [
                f"{policy.needs()['fit']} learned from the last {held} requests, which are not replayed: compare with "
                f"policies run with trace.fit_requests={held}"
            ]
    if learns and (held == 0 or total == held):
        raise UserError(
            f"policy {policy.name}: {policy.needs()['fit']} learns from requests that are not replayed, and there are "
            "none: give trace.fit_requests=N, or a trace with more requests"
        )
    replayed = trace.select_requests(config.requests or total - held)
    return replayed, trace.select_requests(held, total - held) if learns else None, notes


PARTS = {
    "eviction": Eviction,
    "prediction": Prediction,
    "prefetch": Prefetch,
    "substitution": Substitution,
    "assignment": Assignment,
}


def make_part(name: str, config: DictConfig) -> Any:
    """One part of a policy from its ``_target_`` and knobs."""
    values = plain(config, f"policy.{name}")
    target = values.pop("_target_", None)
    if not isinstance(target, str):
        raise UserError(f"policy.{name}._target_={target}: must name a class, as policies.{name}.<rule>.<Class>")
    try:
        cls = get_class(target)
    except Exception as error:
        raise UserError(f"policy.{name}._target_={target}: cannot be imported: {error}") from error
    if not issubclass(cls, PARTS[name]):
        raise UserError(f"policy.{name}._target_={target}: must be a subclass of policies.base.{PARTS[name].__name__}")
    return checked(cls, values, f"policy.{name}.")


def make_policy(config: DictConfig) -> Policy:
    """The policy of the ``policy`` group."""
    built = {name: make_part(name, config[name]) for name in PARTS}
    return Policy(
        name=str(config.name),
        residency=str(config.residency),
        write_back=str(config.get("write_back", "none")),
        **built,
    )


def build(config: DictConfig) -> Replay:
    """Objects for one replay. Raises UserError before any work where the configuration cannot be run."""
    for name in GROUPS:
        plain(config.get(name), name)
    check_keys(config)
    knobs = {name: config[name] for name in KNOBS} | {"engine": config.engine.name}
    run = checked(RunConfig, knobs)
    cache = checked(CacheConfig, plain(config.cache), "cache.")
    trace_config = checked(TraceConfig, plain(config.trace), "trace.")
    policy, hardware = make_policy(config.policy), hardware_from_config(plain(config.hardware))
    trace, others, notes = split_requests(open_trace(trace_config), trace_config, policy)
    geometry, estimated, warnings = resolve_geometry(trace, trace_config, plain(config.model))
    replay = assemble(trace, policy, hardware, geometry, cache, run, trace_config.as_decode, others)
    replay.estimated[:0], replay.warnings[:0] = estimated, warnings + notes
    return replay


def assemble(
    trace: Trace,
    policy: Policy,
    hardware: Hardware,
    geometry: Geometry,
    cache: CacheConfig | None = None,
    run: RunConfig | None = None,
    as_decode: bool = False,
    others: Trace | None = None,
) -> Replay:
    """A replay from objects, ready to run once: what ``build`` does after reading the configuration.

    ``others``: requests to learn from, for rules that need 'fit'.
    """
    cache, run = cache or CacheConfig(), run or RunConfig()
    check_combination(policy, cache)
    check_needs(policy, trace, hardware)
    if geometry.expert_bytes is None:
        raise UserError(f"bytes per expert of {geometry.model} are not known: give the sizes with model=NAME")
    schedule = Schedule(trace, run.batch_size, as_decode)
    pools = make_pools(cache, policy.residency, geometry.expert_bytes, trace.num_experts)
    durations = tabulate(geometry, hardware, schedule.max_tokens())
    future, first = _future(policy, schedule, cache.semantics == "sequential")
    lookahead = next((need for need in policy.needs() if need.startswith("lookahead_")), None)
    has_scores = wants_scores(policy, trace)
    device = Device(
        DeviceSpec(
            policy=policy,
            pools=pools,
            num_layers=trace.num_layers,
            num_experts=trace.num_experts,
            top_k=trace.top_k,
            max_tokens=schedule.max_tokens(),
            has_scores=has_scores,
            staging_slots=hardware.staging_slots,
            hold=cache.overflow == "hold",
            warm=cache.start == "warm",
            seed=run.seed,
            load_ns=durations.copy_ns,
            cpu_ns=np.zeros((0, 1), np.int64) if durations.cpu_expert_ns is None else durations.cpu_expert_ns,
            memories=_memories(policy, trace, others),
            first_use=first,
        )
    )
    forecaster = None
    if "forecast" in policy.needs():
        from sim.predictors.forecast import make_forecaster

        forecaster = make_forecaster(policy.prediction, trace, as_decode)
    reader = RowReader(trace, has_scores, lookahead, future, forecaster)
    replay = Replay(trace, geometry, policy, hardware, pools, cache, run, schedule, durations, device, reader)
    _add_notes(replay, as_decode, lookahead)
    return replay


def _memories(policy: Policy, trace: Trace, others: Trace | None) -> dict[str, NDArray[np.float64]]:
    """What each part knows at the start."""
    found = {}
    for name, part in zip(PARTS, policy.parts(), strict=True):
        size = part.memory_size(trace.num_layers, trace.num_experts, trace.top_k)
        if "fit" not in part.all_needs():
            found[name] = np.zeros(size)
            continue
        if others is None:
            raise UserError(
                f"policy {policy.name}: {type(part).__name__} learns from other requests, and none are given"
            )
        memory = np.ascontiguousarray(part.fit(others), dtype=np.float64)
        if memory.shape != (size,):
            raise ValueError(f"{type(part).__name__}.fit returned {memory.shape}, memory_size says {size}")
        found[name] = memory
    return found


def _future(
    policy: Policy, schedule: Schedule, sequential: bool
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    if "future" not in policy.needs():
        return None, None
    rows, bounds = schedule.order()
    found: tuple[NDArray[np.int64], NDArray[np.int64]] = next_use(
        np.asarray(schedule.trace.topk_ids), rows, bounds, schedule.trace.num_experts, sequential
    )
    return found


def _add_notes(replay: Replay, as_decode: bool, lookahead: str | None) -> None:
    """What a reader of the result has to know, in sentences."""
    trace, pools = replay.trace, replay.pools
    fewest = int((pools.capacity[pools.pool_of] // np.maximum(pools.size, 1)).min())
    if replay.policy.residency == "cache" and fewest < trace.top_k:
        replay.warnings.append(f"only {fewest} slots for a layer, below top_k={trace.top_k}: its steps overflow")
    if pools.total_bytes > replay.hardware.gpu_memory_bytes:
        held, has = pools.total_bytes / 1e9, replay.hardware.gpu_memory_bytes / 1e9
        replay.warnings.append(f"the capacity of {held:.1f} GB is more than the {has:.1f} GB of {replay.hardware.name}")
    if not trace.ranked and trace.topk_weights is None and trace.router_logits is None:
        replay.warnings.append("experts of a token are not ranked: recency inside a step follows the stored order")
    if "gate_scores" in replay.policy.needs() and (trace.score_function or "").startswith("sigmoid"):
        replay.estimated.append("gate scores are the softmax of the logits, while this model's router uses a sigmoid")
    if replay.durations.unmodelled and replay.timed:
        parts = ", ".join(replay.durations.unmodelled)
        replay.warnings.append(f"left out of the time, because the model's sizes are not known: {parts}")
    if replay.reader.forecaster is not None:
        replay.estimated.append("the predictor's forecasts are at hand at once: the time of its network is not counted")
    if lookahead is not None:
        replay.estimated.append("open loop: predictions are the recorded ones and do not depend on what was resident")
        if getattr(trace, lookahead).truncated:
            replay.estimated.append("lookahead scores outside the recorded best share the remaining mass equally")
    if replay.device.spec.has_scores and trace.router_logits is not None and trace.router_logits.truncated:
        replay.estimated.append("gate scores outside the recorded best share the remaining mass equally")
    if not replay.timed and replay.policy.needs().keys() & {"lookahead_before", "lookahead_after"}:
        replay.warnings.append("replay without a clock: every prefetch counts as in time")
    if "statement" in trace.provenance:
        replay.estimated.append(f"routing of {trace.geometry.model}: {trace.provenance['statement']}")
    if as_decode:
        replay.estimated.append("rows of a teacher-forced pass count as decode steps (trace.as_decode=true)")
    replay.warnings += [str(note) for note in trace.provenance.get("notes", [])]
