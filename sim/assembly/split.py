"""A model's layers split over two GPUs: two replays of their own layers that take turns, on either clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.base import Prefetch
from policies.needs import Need
from sim.assembly.combinations import has_clock
from sim.engine.clocks.timeline_log import LOG_DRAFT, LOG_HANDOVER
from sim.engine.decision.device import Device, decides
from sim.engine.interface import BlockResult, Engine
from sim.machine.capacity import Pools
from sim.machine.devices import DevicesConfig
from sim.machine.durations import Durations, whole_ns
from sim.machine.host_store import HostStore
from sim.machine.parts import LINK_WAIT
from sim.workload.rows import BlockData, RowReader
from sim.workload.steps import Drafted, StepBlock
from traces.errors import UserError
from traces.format.layers import PER_LAYER, take_layers
from traces.format.trace import Geometry, Trace

ACROSS = (Need.FORECAST, Need.DRAFTS)
"""What is known of all layers together, and not of those of one GPU."""


class Turn(Protocol):
    """The replay of one device's layers, as ``sim.assembly.replay`` makes it."""

    engine: Engine
    reader: RowReader

    @property
    def device(self) -> Device: ...

    def with_room(self, block: StepBlock) -> StepBlock: ...


Setup = Any
"""A ``sim.assembly.replay.DeviceSetup``; that module imports this one."""


@dataclass
class SplitEngine:
    """Devices that run the layers of every step one after the other, each on a clock of its own.

    While one computes, copies that the others have under way go on: what the rest of a step takes is a pause to it.
    """

    turns: Sequence[Turn]
    handover_ns: NDArray[np.int64]
    """[n+1] activations of so many tokens to the next device."""
    durations: Durations
    """Of all layers together: what drafting ahead of a step takes."""
    now_ns: int = 0
    logs: bool = False
    """A timeline is kept."""
    ended_ns: list[int] = field(init=False)
    """When each device ended its last turn."""
    between: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ended_ns = [0] * len(self.turns)

    @property
    def device(self) -> Device:
        """The first one; ``sim.assembly.replay.Replay.devices`` are all."""
        return self.turns[0].device

    @property
    def link_busy_ns(self) -> int:
        """Mean over the links."""
        return sum(turn.engine.link_busy_ns for turn in self.turns) // len(self.turns)

    @property
    def cpu_busy_ns(self) -> int:
        """Of the one CPU."""
        return sum(turn.engine.cpu_busy_ns for turn in self.turns)

    @property
    def storage_busy_ns(self) -> int:
        """Of the one storage."""
        return sum(turn.engine.storage_busy_ns for turn in self.turns)

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps. Every device reads the rows of its own layers."""
        result, passes = BlockResult.empty(block), block.passes()
        drafting_ns = self.durations.drafting_ns(passes, block.num_requests())
        for step in range(len(block)):
            self.now_ns += int(block.pause_ns[step])
            begin_ns, tokens = self.now_ns, int(block.bounds[step + 1] - block.bounds[step])
            result.parts_ns[step] += self._draft(int(passes[step]), drafting_ns[step])
            for number, turn in enumerate(self.turns):
                if number:
                    result.parts_ns[step, LINK_WAIT] += self._hand_over(number, tokens)
                own = turn.with_room(one_step(block, step, self.now_ns - self.ended_ns[number]))
                found = turn.engine.replay(own, turn.reader.read(own))
                self.now_ns += int(found.latency_ns[0])
                self.ended_ns[number] = self.now_ns
                result.parts_ns[step] += found.parts_ns[0]
                result.counts[step] += found.counts[0]
                result.lost[step] += found.lost[0]
            result.latency_ns[step] = self.now_ns - begin_ns
        return result

    def _hand_over(self, number: int, tokens: int) -> int:
        """Let a device take over activations -> how long it takes."""
        taken_ns = int(self.handover_ns[tokens])
        self._pass(LOG_HANDOVER, number, taken_ns, tokens)
        return taken_ns

    def _draft(self, passes: int, parts_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The passes of the draft ahead of a step, on the first device -> what they take, by part."""
        for part in np.flatnonzero(parts_ns):
            self._pass(LOG_DRAFT, passes, int(parts_ns[part]), int(part))
        return parts_ns

    def _pass(self, kind: int, what: int, spent_ns: int, extra: int) -> None:
        """Let time pass for all devices alike, as a slice of the timeline."""
        if self.logs and spent_ns > 0:
            self.between.append((kind, what, self.now_ns, self.now_ns + spent_ns, extra))
        self.now_ns += spent_ns

    def take_log(self) -> NDArray[np.int64]:
        """What came between the turns since the last call; the engine of every turn has kept its own slices."""
        between, self.between = self.between, []
        return np.array(between, np.int64).reshape(-1, 5)

    def stop_log(self) -> None:
        """Keep no more slices, on any device."""
        self.logs = False
        for turn in self.turns:
            turn.engine.stop_log()


def one_step(block: StepBlock, step: int, pause_ns: int) -> StepBlock:
    """A step of a block as a block of its own, after a pause, without the passes of the draft ahead of it."""
    rows, here = slice(int(block.bounds[step]), int(block.bounds[step + 1])), slice(step, step + 1)
    drafted = block.drafted
    if drafted is not None:
        drafted = Drafted(drafted.accepted[rows], np.zeros(1, np.int64), drafted.requests[here])
    return replace(
        block,
        rows=block.rows[rows],
        requests=block.requests[rows],
        bounds=np.array([0, rows.stop - rows.start], np.int64),
        group=block.group[here],
        phase=block.phase[here],
        kv_tokens=block.kv_tokens[here],
        attended_pairs=block.attended_pairs[here],
        pause_ns=np.array([pause_ns], np.int64),
        drafted=drafted,
    )


def assemble_split(
    assemble: Callable[..., Any], trace: Trace, setup: Setup, geometry: Geometry, as_decode: bool, others: Trace | None
) -> Any:
    """A replay on two GPUs, made of those that ``assemble`` makes on one.

    Raises: UserError where a rule or a knob is of one GPU only.
    """
    check_split(setup)
    devices, layers = setup.devices, trace.num_layers
    cut, alone = devices.cut(layers), replace(setup, devices=DevicesConfig())
    whole = assemble(trace, replace(alone, cache=_fixed(alone)), geometry, as_decode, others)
    host = whole.spec.host
    check_host(setup, host)
    turns = []
    for first, stop in ((0, cut), (cut, layers)):
        own = replace(
            alone,
            cache=_share(alone, stop - first, layers),
            machine=_machine(setup, first > 0),
            host=_host(setup, host, geometry, (first, stop), trace.top_k),
        )
        known = None if others is None else take_layers(others, first, stop)
        turns.append(assemble(take_layers(trace, first, stop), own, sizes_of(geometry, first, stop), as_decode, known))
    handover_ns = _handover_ns(setup, geometry, whole.spec.max_tokens)
    engine = SplitEngine(turns, handover_ns, whole.durations, logs=setup.run.timeline)
    return replace(whole, setup=setup, engine=engine, pools=together([turn.pools for turn in turns]))


def check_split(setup: Setup) -> None:
    """Raises: UserError that names what is of one GPU only."""
    said, policy = f"devices.count={setup.devices.count}", setup.policy
    refused = {
        "cache.bytes=auto does not know on which GPU the draft lies; give cache.bytes as a number": setup.cache.auto
        and setup.speculate.tokens > 0,
        "this replay has no clock (engine=untimed, cache.overflow=hold or sequential)": not has_clock(
            setup.cache, setup.run
        ),
    }
    for sentence, holds in refused.items():
        if holds:
            raise UserError(f"{said}: {sentence}")
    for need, rule in policy.needs().items():
        if need in ACROSS:
            raise UserError(
                f"{said}: policy {policy.name}: {rule} looks at all layers of a step at once, and each GPU knows its "
                "own only; use a policy without it, as policy=lru"
            )


def check_host(setup: Setup, host: HostStore | None) -> None:
    """Raises: UserError where two GPUs cannot read from one storage."""
    if host is None:
        return
    said, policy = f"devices.count={setup.devices.count}", setup.policy
    if not host.capacity:
        raise UserError(f"{said}: hardware {setup.machine.hardware.name} has unified memory, and one GPU")
    if decides(policy.prefetch, Prefetch, "choose"):
        raise UserError(
            f"{said} with storage behind host memory: {type(policy.prefetch).__name__} of policy {policy.name} reads "
            "in the background, and reads of both GPUs would share the drive; use policy/prefetch=none"
        )


def together(pools: Sequence[Pools]) -> Pools:
    """The pools of all GPUs, in the order of their layers."""
    starts = np.cumsum([0, *(len(each.capacity) for each in pools)])
    return Pools(
        np.concatenate([start + each.pool_of for start, each in zip(starts, pools, strict=False)]),
        np.concatenate([each.capacity for each in pools]),
        np.concatenate([each.size for each in pools]),
        pools[0].num_experts,
    )


def sizes_of(geometry: Geometry, first: int, stop: int) -> Geometry:
    """The sizes of some layers; the LM head and dense layers are on the GPU of the last one."""
    sizes: dict[str, Any] = {
        name: None if getattr(geometry, name) is None else getattr(geometry, name)[first:stop] for name in PER_LAYER
    }
    other = geometry.other_bytes if stop == geometry.num_layers or geometry.other_bytes is None else 0
    return replace(geometry, num_layers=stop - first, other_bytes=other, **sizes)


def _fixed(setup: Setup) -> Any:
    """A cache of some size in place of one that follows the memory, which is that of each GPU."""
    return replace(setup.cache, bytes=None, slots_per_layer=1) if setup.cache.auto else setup.cache


def _share(setup: Setup, own: int, layers: int) -> Any:
    """The cache of one GPU: ``cache.bytes`` are of both together."""
    amount = setup.cache.bytes
    return replace(setup.cache, bytes=max(1, amount * own // layers)) if isinstance(amount, int) else setup.cache


def _host(setup: Setup, host: HostStore | None, geometry: Geometry, own: tuple[int, int], top_k: int) -> Any:
    """Host memory of one GPU: the share of its ``own`` layers.

    Raises: UserError where a layer's choice does not fit it.
    """
    if host is None:
        return setup.host
    assert geometry.expert_bytes is not None
    first, stop = own
    share = host.capacity * (stop - first) // geometry.num_layers
    choice = top_k * max(geometry.expert_bytes[first:stop])
    if share < choice:
        raise UserError(
            f"devices.count={setup.devices.count}: of {host.capacity / 1e9:.3g} GB of host memory for experts, layers "
            f"{first} to {stop - 1} have {share / 1e9:.3g} GB, and the {top_k} that a token wants of a layer take "
            f"{choice / 1e9:.3g} GB: give more host.bytes"
        )
    return replace(setup.host, bytes=share)


def _machine(setup: Setup, second: bool) -> Any:
    rate = setup.devices.second_link_bytes_per_s
    return setup.machine if rate is None or not second else setup.machine.with_figures({"link_bytes_per_s": rate})


def _handover_ns(setup: Setup, geometry: Geometry, most: int) -> NDArray[np.int64]:
    """[n+1]: 2 bytes per number of the model's width over the slower link, through host memory."""
    rate = min(_machine(setup, second).hardware.link_bytes_per_s for second in (False, True))
    numbers = range(most + 1)
    seconds = (setup.devices.handover_s + tokens * 2.0 * (geometry.hidden_size or 0) / rate for tokens in numbers)
    return np.array([whole_ns(second) for second in seconds], np.int64)
