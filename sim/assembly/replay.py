"""One replay: the objects it consists of, and the loop that drives an engine block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.needs import Need
from sim.assembly.combinations import (
    check_auto,
    check_combination,
    check_prefill,
    check_session,
    check_tiers,
    has_clock,
)
from sim.assembly.limits import Sums, steps_at_once
from sim.assembly.needs import check_needs, initial_memories, profile_of, wants_scores, wants_weights
from sim.assembly.room import Room, find_room
from sim.assembly.rule_class import place_of
from sim.assembly.split import assemble_split
from sim.config import PrefillConfig, RunConfig, SessionConfig, SpeculateConfig, TimeConfig
from sim.engine.decision.device import Costs, Device, DeviceSpec
from sim.engine.interface import BlockResult, Engine
from sim.engine.invariants import check_finished
from sim.machine.capacity import CacheConfig, Pools, make_pools
from sim.machine.devices import DevicesConfig
from sim.machine.drafts import with_drafts
from sim.machine.durations import Durations, tabulate, whole_ns
from sim.machine.hardware import Hardware
from sim.machine.host_store import HostConfig, HostStore, host_store
from sim.machine.machine import Machine
from sim.machine.peer import peer_store
from sim.machine.runtime import Runtime
from sim.shipped_rules import own_parts
from sim.workload.future import FutureUse
from sim.workload.recorded_drafts import require_counts
from sim.workload.rows import BlockData, RowReader
from sim.workload.steps import Schedule, StepBlock
from traces.errors import UserError
from traces.format.mapped import gather, release
from traces.format.ranks import signed_ids
from traces.format.trace import Geometry, Trace

TIMELINE_ROWS = 64
"""Rows of a block while a timeline is kept."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Sentences that a reader of a result has to know: what is ESTIMATED in it, and warnings."""

    estimated: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __add__(self, other: Notes) -> Notes:
        return Notes(self.estimated + other.estimated, self.warnings + other.warnings)


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """A policy on a machine: its cache, the knobs of the run, and which times count."""

    policy: Policy
    machine: Machine
    cache: CacheConfig = field(default_factory=CacheConfig)
    run: RunConfig = field(default_factory=RunConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    """What happens between the turns of chats, where the trace's requests are turns."""
    speculate: SpeculateConfig = field(default_factory=SpeculateConfig)
    prefill: PrefillConfig = field(default_factory=PrefillConfig)
    host: HostConfig = field(default_factory=HostConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    own_runtime: bool = False
    """The runtime is the one that the policy names, not one for all policies."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", self.cache.settled_by(self.policy))


@dataclass(slots=True)
class Replay:
    """Everything one replay consists of. ``blocks`` runs it, once."""

    trace: Trace
    geometry: Geometry
    setup: DeviceSetup
    pools: Pools
    schedule: Schedule
    durations: Durations
    spec: DeviceSpec
    reader: RowReader
    engine: Engine
    steps_at_once: int
    """Most steps of a block, see ``sim.assembly.limits``."""
    others: Trace | None = None
    """Requests that rules learned from."""
    notes: Notes = field(default_factory=Notes)
    room: Room | None = None
    """What every step leaves experts, where the capacity follows the context; ``pools`` are then means."""
    steps_done: int = 0

    @property
    def policy(self) -> Policy:
        return self.setup.policy

    @property
    def hardware(self) -> Hardware:
        return self.setup.machine.hardware

    @property
    def runtime(self) -> Runtime:
        return self.setup.machine.runtime

    @property
    def cache(self) -> CacheConfig:
        return self.setup.cache

    @property
    def run(self) -> RunConfig:
        return self.setup.run

    @property
    def timed(self) -> bool:
        return has_clock(self.cache, self.run)

    @property
    def device(self) -> Device:
        return self.engine.device

    @property
    def turns(self) -> list[Replay]:
        """One for each GPU, where several share the layers."""
        return list(getattr(self.engine, "turns", [self]))

    @property
    def devices(self) -> list[Device]:
        """Of every GPU."""
        return [turn.device for turn in self.turns]

    def blocks(self) -> Iterator[BlockResult]:
        """Replay the trace block by block; in small ones where a timeline is kept, which grows with the block.

        Raises: UserError where a rule that is not shipped goes wrong; RuntimeError after the last block where the
        device is left in a state that no replay may end in.
        """
        for (result,) in blocks_together([self]):
            yield result

    def replayed(self, block: StepBlock, data: BlockData) -> BlockResult:
        """The next steps. Raises: UserError where a rule that is not shipped goes wrong."""
        block = self.with_room(block)
        with rules_blamed(self.policy, self.steps_done, len(block)):
            result = self.engine.replay(block, data)
            if own_parts(self.policy):
                for device in self.devices:
                    require_priorities(device)
        self.steps_done += len(block)
        return result

    def with_room(self, block: StepBlock) -> StepBlock:
        """The next steps with the bytes that they leave experts, where those follow the context."""
        return block if self.room is None else self.room.on(block)

    def assemble_again(self, **changes: Any) -> Replay:
        """A compiled replay of the same requests without timeline; ``changes``: fields of the set-up that differ."""
        run = replace(self.run, engine="compiled", timeline=False, what_if=False)
        setup = replace(self.setup, run=run, **changes)
        return assemble(self.trace, setup, self.geometry, self.schedule.as_decode, self.others)


def blocks_together(replays: Sequence[Replay]) -> Iterator[list[BlockResult]]:
    """Replay the same requests in several set-ups, block by block: each block is read once for all of them.

    With several, as many run at once as there are cores. Raises: as ``Replay.blocks``.
    """
    first = replays[0]
    most = min(min(replay.reader.block_rows(), replay.steps_at_once) for replay in replays)
    sums = [Sums(first.schedule.batch) for _ in replays]
    with ThreadPoolExecutor(min(len(replays), os.cpu_count() or 1)) as threads:
        for block in first.schedule.blocks(min(most, TIMELINE_ROWS) if first.run.timeline else most):
            if len(replays) == 1:
                results = [first.replayed(block, first.reader.read(block))]
            else:
                read = _read_for_all(replays, block)
                running = [threads.submit(each.replayed, block, data) for each, data in read]
                results = [each.result() for each in running]
            for checked, result in zip(sums, results, strict=True):
                checked.add(result)
            yield results
    for replay in replays:
        for device in replay.devices:
            check_finished(device)


def _read_for_all(replays: Sequence[Replay], block: StepBlock) -> list[tuple[Replay, BlockData]]:
    """A block as each of several replays wants it, read once."""
    shared: dict[str, NDArray[Any]] = {}
    for replay in replays:
        replay.reader.shared = shared
    return [(replay, replay.reader.read(block)) for replay in replays]


@contextmanager
def rules_blamed(policy: Policy, first: int, count: int) -> Iterator[None]:
    """While some steps are replayed, an error that compiled rules can raise is a sentence where one is not shipped."""
    try:
        yield
    except (IndexError, ValueError, ZeroDivisionError, OverflowError) as error:
        own = own_parts(policy)
        if not own or isinstance(error, UserError):
            raise
        names = " or ".join(f"{type(part).__name__} ({place_of(type(part))})" for part in own.values())
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserError(
            f"policy {policy.name}: {names} went wrong in steps {first} to {first + count}, {said}: `python -m sim "
            "check-policy` with this policy and trace and budget=600 looks for the line"
        ) from error


def require_priorities(device: Device) -> None:
    """Raises: ValueError where a rule wrote a priority that is no number: there is no lowest one then."""
    if not np.isfinite(device.arrays["priority"]).all():
        raise ValueError("a priority is not a finite number")


def assemble(
    trace: Trace,
    setup: DeviceSetup,
    geometry: Geometry | None = None,
    as_decode: bool = False,
    others: Trace | None = None,
) -> Replay:
    """A replay from objects, ready to run once: what ``build`` does after reading the configuration.

    ``geometry``: sizes of the model; None: those of the trace. ``others``: requests that rules learn from.
    """
    policy, machine, cache, run = setup.policy, setup.machine, setup.cache, setup.run
    geometry = geometry or trace.geometry
    if setup.devices.splits:
        split: Replay = assemble_split(assemble, trace, setup, geometry, as_decode, others)
        return split
    check_combination(policy, cache, run, setup.speculate)
    check_session(policy, cache, run, setup.session)
    check_prefill(policy, cache, run, setup.prefill)
    check_auto(policy, cache)
    check_needs(policy, trace, machine.hardware)
    if geometry.expert_bytes is None:
        raise UserError(f"bytes per expert of {geometry.model} are not known: give the sizes with model=NAME")
    think_ns = whole_ns(setup.session.think_s)
    chunk = setup.prefill.chunk(run.prefill_chunk)
    schedule = Schedule(trace, run.batch_size, as_decode, chunk, think_ns, setup.speculate, run.seed)
    require_counts(schedule)
    room, found, usual = None, cache, cache
    if cache.auto:
        keeps_kv, streams = setup.session.keeps_kv, setup.prefill.streams
        room = find_room(schedule, geometry, machine, policy, cache, keeps_kv, streams)
        found, usual = replace(cache, bytes=max(1, room.start)), replace(cache, bytes=max(1, room.mean))
    pools = make_pools(found, policy, geometry.expert_bytes, trace.num_experts, others)
    low_bytes = low_precision_bytes(policy, geometry)
    max_tokens = schedule.max_tokens()
    resident = policy.residency == "all"
    host = None if resident else store_behind(setup, geometry.expert_bytes, trace.num_experts, trace.top_k)
    if host is not None:
        check_tiers(policy, host, setup.prefill, machine)
    reading = None if host is None else host.reading
    chunks = policy.prefetch.chunks()
    durations = tabulate(geometry, machine, max_tokens, setup.time, chunks, low_bytes, resident, reading)
    durations = with_drafts(durations, setup.speculate, geometry, machine, schedule.batch, setup.time)
    at_once = steps_at_once(schedule, durations, pools)
    future = _future(policy, schedule, cache)
    spec = DeviceSpec(
        policy=policy,
        pools=pools,
        num_layers=trace.num_layers,
        num_experts=trace.num_experts,
        top_k=trace.top_k,
        max_tokens=max_tokens,
        costs=costs_of(durations, policy, has_clock(cache, run)),
        low_size=np.asarray(low_bytes or (0,) * trace.num_layers, np.int64),
        memories=initial_memories(policy, trace.geometry, trace.expert_similarity, others, trace),
        launch_ns=durations.expert_launch_ns,
        has_scores=wants_scores(policy, trace),
        staging_slots=int(min(machine.runtime.staging_slots, trace.num_experts)),  # never more are in use
        hold=cache.holds,
        warm=cache.warm or policy.eviction.static,
        profile=profile_of(cache, others),
        seed=run.seed,
        forgets=cache.forgets,
        late_copy_to_cpu=machine.runtime.late_copy_to_cpu,
        cancel_late_copy=machine.runtime.cancel_late_copy,
        fewer=trace.fewer,
        host=host,
        first_use=None if future is None else future.first,
        first_use_of=None if future is None else future.first_of,
        goes_past=setup.prefill.goes_past,
        streams=setup.prefill.streams,
        least_pool_bytes=None if room is None or room.fixed else room.least // room.pools,
    )
    forecasts = forecaster(policy, trace, as_decode)
    reader = RowReader(trace, wants_weights(policy), spec.has_scores, lookahead_tables(policy), forecasts, future)
    engine = make_engine(spec, durations, cache, run)
    return Replay(
        trace=trace,
        geometry=geometry,
        setup=setup,
        pools=pools if room is None else make_pools(usual, policy, geometry.expert_bytes, trace.num_experts, others),
        schedule=schedule,
        durations=durations,
        spec=spec,
        reader=reader,
        engine=engine,
        steps_at_once=at_once,
        others=others,
        room=room,
    )


def store_behind(setup: DeviceSetup, expert_bytes: tuple[int, ...], num_experts: int, top_k: int) -> HostStore | None:
    """What holds experts for the slots and has to fetch others: host memory, or a second GPU; None: nothing has to.

    Raises: UserError where experts fit nowhere.
    """
    held, machine = (expert_bytes, num_experts, top_k), setup.machine
    if setup.devices.stores:
        return peer_store(setup.devices, setup.host, machine, setup.cache.workspace_bytes, *held)
    return host_store(setup.host, machine, *held)


def make_engine(spec: DeviceSpec, durations: Durations, cache: CacheConfig, run: RunConfig) -> Engine:
    """The engine that ``run.engine`` names, without a clock where the cache's semantics have none."""
    if not has_clock(cache, run):
        from sim.engine.clocks.untimed_engine import UntimedEngine

        return UntimedEngine(spec, cache.resets, cache.sequential)
    if run.engine == "compiled":
        from sim.engine.clocks.compiled_engine import CompiledEngine

        return CompiledEngine(spec, durations, cache.resets, run.timeline)
    from sim.engine.clocks.simpy_engine import SimpyEngine

    return SimpyEngine(spec, durations, cache.resets, run.timeline)


def low_precision_bytes(policy: Policy, geometry: Geometry) -> tuple[int, ...] | None:
    """[L] bytes of an expert in the low precision that the policy's substitution names; None where it wants none.

    Raises: UserError where the stored bits per weight are not known.
    """
    bits = policy.substitution.low_precision_bits()
    if Need.LOW_PRECISION not in policy.needs() or bits is None:
        return None
    if geometry.weight_bits is None or bits >= geometry.weight_bits:
        raise UserError(
            f"policy.substitution.low_bits={bits:g}: must be below the model's {geometry.weight_bits} bits per weight"
        )
    return tuple(max(1, round(size * bits / geometry.weight_bits)) for size in geometry.expert_bytes or ())


def costs_of(durations: Durations, policy: Policy, timed: bool) -> Costs:
    """What the rules may know of the machine."""
    cpu_ns = durations.cpu_expert_ns
    none = np.empty(0, np.int64)
    return Costs(
        load_ns=durations.copy_ns,
        low_load_ns=durations.low_copy_ns,
        expert_ns=durations.expert_ns + durations.expert_launch_ns,
        cpu_ns=np.zeros((0, 1), np.int64) if cpu_ns is None else cpu_ns,
        layer_ns=durations.layer_ns() if timed else none,
        gap_ns=durations.gap_ns() if timed else none,
        write_back_ns=none
        if policy.write_back == "none"
        else np.concatenate([durations.write_back_ns, durations.low_write_back_ns]),
        dequantise_ns=durations.dequantise_ns,
        read_ns=durations.read_ns,
        through_ns=durations.through_ns(),
    )


def lookahead_tables(policy: Policy) -> tuple[str, ...]:
    """The trace's score tables that the policy's prediction reads, for 1, 2, ... layers ahead."""
    return tuple(need.value for need in policy.needs() if need in (Need.LOOKAHEAD_BEFORE, Need.LOOKAHEAD_AFTER))


def forecaster(policy: Policy, trace: Trace, as_decode: bool) -> Any:
    """The trained predictor of the policy's prediction, or None."""
    if Need.FORECAST not in policy.needs():
        return None
    from sim.predictors.forecast import make_forecaster

    return make_forecaster(policy.prediction, trace, as_decode)


def _future(policy: Policy, schedule: Schedule, cache: CacheConfig) -> FutureUse | None:
    """When everything is demanded next before the cache is reset, for rules that see the future."""
    if Need.FUTURE not in policy.needs():
        return None
    trace = schedule.trace
    blocks = ((block.rows, block.bounds, block.group * cache.resets) for block in schedule.blocks())

    def read_ids(rows: NDArray[np.int64]) -> NDArray[Any]:
        ids = gather(trace.topk_ids, rows)
        if trace.fewer:
            ids = signed_ids(ids, True)
        release(trace.topk_ids[int(rows.min()) : int(rows.max()) + 1])
        return ids

    return FutureUse(read_ids, blocks, trace.num_layers, trace.num_experts, cache.sequential)
