"""What an engine takes and returns: it replays blocks of steps and says what each step took and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.engine.decision.counters import COUNTERS
from sim.engine.decision.device import Device
from sim.machine.parts import PARTS
from sim.workload.rows import BlockData
from sim.workload.steps import StepBlock


@dataclass(slots=True)
class StepResults:
    """What S steps took and counted."""

    latency_ns: NDArray[np.int64]
    """[S]; zeros in a replay without a clock."""
    parts_ns: NDArray[np.int64]
    """[S, parts] see ``sim.machine.parts.PARTS``."""
    counts: NDArray[np.int64]
    """[S, counters] of each step, see ``sim.engine.decision.counters.COUNTERS``."""
    lost: NDArray[np.float64]
    """[S, 3] share of weight not executed as routed, summed over token-layers; token-layers; of the first the share
    executed in low precision."""

    @classmethod
    def zeros(cls, steps: int) -> StepResults:
        return StepResults(
            np.zeros(steps, np.int64),
            np.zeros((steps, len(PARTS)), np.int64),
            np.zeros((steps, len(COUNTERS)), np.int64),
            np.zeros((steps, 3)),
        )

    @classmethod
    def joined(cls, results: Sequence[StepResults]) -> StepResults:
        """The steps of several results, in order."""
        columns = ([getattr(result, field.name) for result in results] for field in fields(StepResults))
        return StepResults(*map(np.concatenate, columns))

    def take(self, steps: slice) -> StepResults:
        """Some of the steps."""
        return StepResults(*(getattr(self, field.name)[steps] for field in fields(StepResults)))

    def part_ns(self, name: str) -> NDArray[np.int64]:
        """[S] time of one part."""
        return self.parts_ns[:, PARTS.index(name)]

    def count(self, name: str) -> NDArray[np.int64]:
        """[S] one counter."""
        return self.counts[:, COUNTERS.index(name)]


@dataclass(slots=True)
class BlockResult(StepResults):
    """What replaying a block of S steps gave."""

    block: StepBlock

    @classmethod
    def empty(cls, block: StepBlock) -> BlockResult:
        """Zeros, to be filled in."""
        return cls.of(block, StepResults.zeros(len(block)))

    @classmethod
    def of(cls, block: StepBlock, results: StepResults) -> BlockResult:
        """The results of the steps of a block."""
        return cls(results.latency_ns, results.parts_ns, results.counts, results.lost, block)


class Engine(Protocol):
    """Replays blocks of steps on one device."""

    @property
    def device(self) -> Device:
        """The device whose residency and queues the engine drives."""

    @property
    def link_busy_ns(self) -> int:
        """Time the link spent on copies that have arrived; what is still on it when the clock stops does not count."""

    @property
    def cpu_busy_ns(self) -> int:
        """Time the CPU spent on experts."""

    @property
    def storage_busy_ns(self) -> int:
        """Time storage spends on the reads that it was asked for."""

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps."""

    def take_log(self) -> NDArray[np.int64]:
        """[n, 5] the timeline's slices since the last call; see ``sim.engine.clocks.timeline_log``."""

    def stop_log(self) -> None:
        """Keep no more slices."""
