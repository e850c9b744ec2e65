"""Expert parallelism on chiplets: weights stay, tokens move."""

from __future__ import annotations

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.systems.expert_streaming.layer import Expert, Result, run_layer
from sim.systems.expert_streaming.package import Machine, Package, Process


class ExpertParallel:
    """Expert e lives behind die e mod chiplets, which loads it whole, gathers its tokens, computes, sends results back.

    A token travels when its expert begins to load, so that most of its way is hidden. Experts load in order of their
    number; one active expert at a time computes on a die, which holds `slots` of them: with two, one computes while the
    next one loads. The layer ends when the last result is home.
    Source: baseline EP of arXiv 2603.27624 as its presumed code states it (github Man0xbfc00380/MoeOpt, EPScheduler).
    Does badly where few dies own the active experts or the hot ones.
    """

    def __init__(self, package: Package, expert: Expert, slots: int, counts: NDArray[np.int64]) -> None:
        self.package, self.expert, self.counts = package, expert, counts
        self.executed = np.zeros(counts.shape)
        self.slots = [simpy.Resource(package.env, slots) for _ in range(package.machine.chiplets)]

    def start(self) -> None:
        """Begin every active expert; those of one die wait for its slots in order."""
        for expert in np.flatnonzero(self.counts.sum(axis=1)).tolist():
            self.package.env.process(self._expert(expert, expert % self.package.machine.chiplets))

    def _expert(self, expert: int, die: int) -> Process:
        package, size, memory = self.package, self.expert, self.package.memory[die]
        guests = {other: int(n) for other, n in enumerate(self.counts[expert]) if n and other != die}
        total = int(self.counts[expert].sum())
        with self.slots[die].request() as slot:
            yield slot
            memory.hold(size.bytes)
            arrivals = [package.env.process(self._message(other, die, n, expert, 1)) for other, n in guests.items()]
            yield package.env.process(package.load(die, size.bytes, f"expert {expert}"))
            yield from arrivals
            yield from package.compute(die, total * size.macs_per_token, f"expert {expert}, {total} tokens")
            self.executed[expert, die] += total
            memory.hold(-size.bytes)
        for other, n in guests.items():
            package.env.process(self._message(die, other, n, expert, -1))

    def _message(self, start: int, end: int, count: int, expert: int, sign: int) -> Process:
        """Hidden states on their way to an expert (sign 1) or its results on their way home (sign -1)."""
        size = count * self.expert.token_bytes
        if sign > 0:
            self.package.memory[end].hold(size)
        yield from self.package.move(start, end, size, f"tokens of expert {expert}")
        if sign < 0:
            self.package.memory[start].hold(-size)


def expert_parallel(
    machine: Machine, expert: Expert, slots: int, counts: NDArray[np.int64], num_tokens: int, timeline: bool = False
) -> Result:
    """One layer of one iteration under expert parallelism; counts [num_experts, chiplets]."""
    return run_layer(ExpertParallel(Package(machine, timeline), expert, slots, counts), num_tokens)
