"""A model's layers split over two GPUs: two replays of their own layers that take turns, on either clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.needs import Need
from sim.assembly.combinations import has_clock
from sim.engine.clocks.timeline_log import LOG_HANDOVER
from sim.engine.decision.device import Device
from sim.engine.interface import BlockResult, Engine
from sim.machine.devices import DevicesConfig
from sim.machine.durations import whole_ns
from sim.machine.parts import LINK_WAIT
from sim.workload.rows import BlockData, RowReader
from sim.workload.steps import StepBlock
from traces.errors import UserError
from traces.format.layers import PER_LAYER, take_layers
from traces.format.trace import Geometry, Trace

ACROSS = (
    Need.LOOKAHEAD_BEFORE, Need.LOOKAHEAD_AFTER, Need.FORECAST, Need.EXPERT_SIMILARITY, Need.FUTURE, Need.ORACLE,
)  # fmt: skip
"""What is known of all layers together, and not of those of one GPU."""


class Turn(Protocol):
    """The replay of one device's layers, as ``sim.assembly.replay`` makes it."""

    engine: Engine
    reader: RowReader

    @property
    def device(self) -> Device: ...


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
    now_ns: int = 0
    logs: bool = False
    """A timeline is kept."""
    ended_ns: list[int] = field(init=False)
    """When each device ended its last turn."""
    handed: list[tuple[int, int, int, int, int]] = field(default_factory=list)

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

    storage_busy_ns = 0

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps. Every device reads the rows of its own layers."""
        result = BlockResult.empty(block)
        for step in range(len(block)):
            self.now_ns += int(block.pause_ns[step])
            begin_ns, tokens = self.now_ns, int(block.bounds[step + 1] - block.bounds[step])
            for number, turn in enumerate(self.turns):
                if number:
                    result.parts_ns[step, LINK_WAIT] += self._hand_over(number, tokens)
                own = one_step(block, step, self.now_ns - self.ended_ns[number])
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
        begin_ns, taken_ns = self.now_ns, int(self.handover_ns[tokens])
        self.now_ns += taken_ns
        if self.logs:
            self.handed.append((LOG_HANDOVER, number, begin_ns, self.now_ns, tokens))
        return taken_ns

    def take_log(self) -> NDArray[np.int64]:
        """What was handed over since the last call; the engine of every turn has kept its own slices."""
        handed, self.handed = self.handed, []
        return np.array(handed, np.int64).reshape(-1, 5)

    def stop_log(self) -> None:
        """Keep no more slices, on any device."""
        self.logs = False
        for turn in self.turns:
            turn.engine.stop_log()


def one_step(block: StepBlock, step: int, pause_ns: int) -> StepBlock:
    """A step of a block as a block of its own, after a pause."""
    rows, here = slice(int(block.bounds[step]), int(block.bounds[step + 1])), slice(step, step + 1)
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
    whole = assemble(trace, alone, geometry, as_decode, others)
    if whole.spec.host is not None:
        raise UserError(f"devices.count={devices.count}: storage behind host memory is replayed with one GPU only")
    turns = []
    for first, stop in ((0, cut), (cut, layers)):
        own = replace(alone, cache=_share(alone, stop - first, layers), machine=_machine(setup, first > 0))
        known = None if others is None else take_layers(others, first, stop)
        turns.append(assemble(take_layers(trace, first, stop), own, sizes_of(geometry, first, stop), as_decode, known))
    handover_ns = _handover_ns(setup, geometry, whole.spec.max_tokens)
    return replace(whole, setup=setup, engine=SplitEngine(turns, handover_ns, logs=setup.run.timeline))


def check_split(setup: Setup) -> None:
    """Raises: UserError that names what is of one GPU only."""
    said, policy = f"devices.count={setup.devices.count}", setup.policy
    refused = {
        "cache.bytes=auto follows the memory of one GPU; give cache.bytes as a number": setup.cache.auto,
        f"speculate.tokens={setup.speculate.tokens}: drafts run on one GPU; use 0": setup.speculate.tokens > 0,
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
                f"{said}: policy {policy.name}: {rule} looks from layer to layer or ahead in time, and each GPU knows "
                "its own layers only; use a policy without it, as policy=lru"
            )


def sizes_of(geometry: Geometry, first: int, stop: int) -> Geometry:
    """The sizes of some layers; the LM head and dense layers are on the GPU of the last one."""
    sizes: dict[str, Any] = {
        name: None if getattr(geometry, name) is None else getattr(geometry, name)[first:stop] for name in PER_LAYER
    }
    other = geometry.other_bytes if stop == geometry.num_layers or geometry.other_bytes is None else 0
    return replace(geometry, num_layers=stop - first, other_bytes=other, **sizes)


def _share(setup: Setup, own: int, layers: int) -> Any:
    """The cache of one GPU: ``cache.bytes`` are of both together."""
    amount = setup.cache.bytes
    return replace(setup.cache, bytes=max(1, amount * own // layers)) if isinstance(amount, int) else setup.cache


def _machine(setup: Setup, second: bool) -> Any:
    rate = setup.devices.second_link_bytes_per_s
    return setup.machine if rate is None or not second else setup.machine.with_figures({"link_bytes_per_s": rate})


def _handover_ns(setup: Setup, geometry: Geometry, most: int) -> NDArray[np.int64]:
    """[n+1]: 2 bytes per number of the model's width over the slower link, through host memory."""
    rate = min(_machine(setup, second).hardware.link_bytes_per_s for second in (False, True))
    numbers = range(most + 1)
    seconds = (setup.devices.handover_s + tokens * 2.0 * (geometry.hidden_size or 0) / rate for tokens in numbers)
    return np.array([whole_ns(second) for second in seconds], np.int64)
