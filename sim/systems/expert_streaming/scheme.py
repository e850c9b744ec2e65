"""Fully sharded expert data-parallelism: tokens stay, micro-slices of the experts stream past them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.systems.expert_streaming.layer import Expert, Result, run_layer
from sim.systems.expert_streaming.package import LOCAL, RECEIVED, Machine, Package, Process, ring


@dataclass(frozen=True, slots=True)
class Slicing:
    """An expert is cut into `slices`, of which a die holds at most `slots` at a time; the rest: how they load."""

    slices: int
    slots: int
    paired: bool = True
    to_emptiest: bool = False

    def bytes(self, expert: Expert) -> int:
        """Bytes of one micro-slice, the last one filled up."""
        return -(-expert.bytes // self.slices)


def load_order(tokens: NDArray[np.int64], paired: bool) -> list[tuple[int, ...]]:
    """Groups of active experts whose micro-slices load in turn; tokens [num_experts].

    Paired: the hottest with the coldest, the second hottest with the second coldest, ...; equal ones by number. Not
    paired: one after the other by number (SEQUENTIAL in the released configurations).
    """
    active = np.flatnonzero(tokens)
    if not paired:
        return [(int(expert),) for expert in active]
    ranked = active[np.argsort(-tokens[active], kind="stable")].tolist()
    half = len(ranked) // 2
    pairs = [tuple(pair) for pair in zip(ranked[:half], ranked[: -half - 1 : -1], strict=True)] if half else []
    return pairs + [(expert,) for expert in ranked[half : len(ranked) - half]]


def trajectory(start: int, tokens: NDArray[np.int64], walk: list[int]) -> list[int]:
    """The dies a micro-slice passes: where it was loaded, then along the ring all others that hold tokens for it."""
    turn = walk.index(start)
    return [start] + [die for die in walk[turn + 1 :] + walk[:turn] if tokens[die]]


class Buffer:
    """The slots of one die. A micro-slice on its h-th hop gets one while more than (longest - h) are free.

    Slots that only later hops may take make a circle of dies that wait for each other impossible: the micro-slice
    furthest on its way always finds room (structured buffer pool, Raubold and Haenle 1976). How the hardware of the
    paper avoids it is not known.
    """

    def __init__(self, env: simpy.Environment, slots: int, longest: int) -> None:
        self.env, self.free, self.longest = env, slots, longest
        self.waiting: list[tuple[int, simpy.Event]] = []

    def acquire(self, hop: int) -> simpy.Event:
        """An event that happens when a slot is given."""
        turn = self.env.event()
        self.waiting.append((hop, turn))
        self._give()
        return turn

    def release(self) -> None:
        """Give a slot back."""
        self.free += 1
        self._give()

    def _give(self) -> None:
        """Later hops first; among equal ones, who came first."""
        for entry in sorted(self.waiting, key=lambda entry: -entry[0]):
            if self.free <= self.longest - entry[0]:
                break
            self.free -= 1
            self.waiting.remove(entry)
            entry[1].succeed()


class ExpertStreaming:
    """Every die loads its share of every active expert; one copy of each micro-slice streams along its trajectory.

    The paper's local rules: compute what was received and forward it at once; else take a local micro-slice; free a
    slot at the end of the trajectory; where a slot is free, load the next micro-slice. Micro-slice s of an expert lies
    behind die s mod chiplets (INFERRED from 'fully sharded'), turned by the expert's number so that shares stay even.
    It loads to that die, or `to_emptiest` to the one with most free slots (the paper's fifth rule, which it dropped).
    Source: arXiv 2603.27624, from its abstract and a summary; the body was not available.
    Does badly where links are slow against memory channels: on a ring of n dies every link carries n - 1 times what a
    channel reads. Also where slices are so small that `start_ns` weighs, and where computation is the limit: nothing
    holds the channels together, so that one of them may end long after the others.
    """

    def __init__(self, package: Package, expert: Expert, slicing: Slicing, counts: NDArray[np.int64]) -> None:
        machine = package.machine
        self.package, self.expert, self.slicing, self.counts = package, expert, slicing, counts
        self.walk = ring(machine.rows, machine.columns)
        self.slice_bytes = slicing.bytes(expert)
        self.executed = np.zeros(counts.shape)
        longest = machine.chiplets - 1
        self.buffers = [Buffer(package.env, slicing.slots, longest) for _ in range(machine.chiplets)]

    def start(self) -> None:
        """Begin loading on every die."""
        groups = load_order(self.counts.sum(axis=1), self.slicing.paired)
        order = [(expert, piece) for group in groups for piece in range(self.slicing.slices) for expert in group]
        chiplets = self.package.machine.chiplets
        for die in range(chiplets):
            self.package.env.process(self._loader(die, [own for own in order if sum(own) % chiplets == die]))

    def _loader(self, die: int, share: list[tuple[int, int]]) -> Process:
        for expert, piece in share:
            what, goal = f"expert {expert} slice {piece}", self._goal(die)
            yield self.buffers[goal].acquire(0)
            self.package.memory[goal].hold(self.slice_bytes)
            yield from self.package.load(die, self.slice_bytes, what)
            self.package.env.process(self._travel(expert, piece, die, goal))

    def _goal(self, die: int) -> int:
        if not self.slicing.to_emptiest:
            return die
        return max(range(len(self.buffers)), key=lambda other: (self.buffers[other].free, other == die, -other))

    def _travel(self, expert: int, piece: int, die: int, goal: int) -> Process:
        if goal != die:
            yield from self.package.move(die, goal, self.slice_bytes, f"expert {expert} slice {piece}")
        yield from self._visit(expert, piece, trajectory(goal, self.counts[expert], self.walk), 0)

    def _visit(self, expert: int, piece: int, path: list[int], hop: int) -> Process:
        """One micro-slice on one die: compute and forward side by side, then free the slot."""
        env, die = self.package.env, path[hop]
        computing = env.process(self._compute(expert, piece, die, RECEIVED if hop else LOCAL))
        if hop + 1 < len(path):
            yield self.buffers[path[hop + 1]].acquire(hop + 1)
            self.package.memory[path[hop + 1]].hold(self.slice_bytes)
            yield from self.package.move(die, path[hop + 1], self.slice_bytes, f"expert {expert} slice {piece}")
            env.process(self._visit(expert, piece, path, hop + 1))
        yield computing
        self.package.memory[die].hold(-self.slice_bytes)
        self.buffers[die].release()

    def _compute(self, expert: int, piece: int, die: int, priority: int) -> Process:
        tokens = int(self.counts[expert, die])
        if tokens:
            macs = round(tokens * self.expert.macs_per_token / self.slicing.slices)
            yield from self.package.compute(die, macs, f"expert {expert} slice {piece}, {tokens} tokens", priority)
            self.executed[expert, die] += tokens / self.slicing.slices


def expert_streaming(
    machine: Machine,
    expert: Expert,
    slicing: Slicing,
    counts: NDArray[np.int64],
    num_tokens: int,
    timeline: bool = False,
) -> Result:
    """One layer of one iteration under expert streaming; counts [num_experts, chiplets]."""
    return run_layer(ExpertStreaming(Package(machine, timeline), expert, slicing, counts), num_tokens)
