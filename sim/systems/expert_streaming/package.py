"""A package of chiplets on a SimPy clock: a mesh of dies, a memory channel on each, links between neighbours.

Time is a whole number of nanoseconds; durations are rounded once, when they begin. Every die computes one thing at a
time, every memory channel reads one thing at a time, every link carries one message at a time in its direction.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import simpy

from sim.systems.timeline import Span

Process = Generator[simpy.Event, Any, None]
RECEIVED, LOCAL = 0, 1
"""Which computation a free die takes first."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a package can do; every die, channel and link is alike.

    `macs_per_s`: multiply-accumulates of one die. `start_ns`: before each computation, to fill the array.
    `ddr_bytes_per_s`: the memory channel of one die. `d2d_bytes_per_s`, `d2d_latency_ns`: one link between neighbours
    in one direction.
    """

    rows: int
    columns: int
    macs_per_s: float
    ddr_bytes_per_s: float
    d2d_bytes_per_s: float
    d2d_latency_ns: int = 0
    start_ns: int = 0

    @property
    def chiplets(self) -> int:
        """Dies of the package."""
        return self.rows * self.columns


def ring(rows: int, columns: int) -> list[int]:
    """A closed walk through every die once, numbered row by row, between neighbours where the mesh allows one.

    Down the first column, then back up through the others in a snake. Only a mesh of odd rows and odd columns, or of
    one row or one column, has no such walk: there its last step crosses several links.
    """
    if rows % 2 and columns % 2 == 0:  # the same walk on the transposed mesh
        return [(die % rows) * columns + die // rows for die in ring(columns, rows)]
    if columns == 1:
        return list(range(rows))
    walk = []
    for row in range(rows):
        inner = range(1, columns) if row % 2 == 0 else range(columns - 1, 0, -1)
        walk += [row * columns + column for column in inner]
    return walk + [row * columns for row in reversed(range(rows))]


def route(start: int, end: int, columns: int) -> list[int]:
    """The dies that a message passes, both ends included: along the row first, then along the column."""
    path, row, column = [start], start // columns, start % columns
    while column != end % columns:
        column += 1 if end % columns > column else -1
        path.append(row * columns + column)
    while row != end // columns:
        row += 1 if end // columns > row else -1
        path.append(row * columns + column)
    return path


class Memory:
    """Bytes held on one die, and the most there ever were."""

    def __init__(self) -> None:
        self.bytes = self.peak_bytes = 0

    def hold(self, count: int) -> None:
        """More bytes are held, or fewer where the count is negative."""
        self.bytes += count
        self.peak_bytes = max(self.peak_bytes, self.bytes)


class Package:
    """Dies, memory channels and links as SimPy resources, with what they did. Source of the parts: arXiv 2603.27624.

    Topology beyond neighbours, routing and packets are not published: messages go along the row, then the column, and
    are stored whole on every die they pass (INFERRED). `log`: (track, what, begin_ns, end_ns), if a timeline is kept.
    """

    def __init__(self, machine: Machine, timeline: bool = False) -> None:
        self.machine, self.env = machine, simpy.Environment(initial_time=0)
        dies = range(machine.chiplets)
        self.units = [simpy.PriorityResource(self.env) for _ in dies]
        self.channels = [simpy.Resource(self.env) for _ in dies]
        self.links: dict[tuple[int, int], simpy.Resource] = {}
        self.compute_ns, self.channel_ns = [0] * len(dies), [0] * len(dies)
        self.link_ns: dict[tuple[int, int], int] = {}
        self.link_bytes = self.channel_bytes = 0
        self.memory = [Memory() for _ in dies]
        self.log: list[Span] | None = [] if timeline else None

    def _note(self, track: str, what: str, begin_ns: int) -> None:
        if self.log is not None:
            self.log.append((track, what, begin_ns, int(self.env.now)))

    def compute(self, die: int, macs: int, what: str, priority: int = LOCAL) -> Process:
        """Multiply and accumulate on a die: `start_ns`, then macs / macs_per_s."""
        with self.units[die].request(priority) as turn:
            yield turn
            begin_ns = int(self.env.now)
            yield self.env.timeout(self.machine.start_ns + round(macs * 1e9 / self.machine.macs_per_s))
            self.compute_ns[die] += int(self.env.now) - begin_ns
            self._note(f"die {die}", what, begin_ns)

    def load(self, die: int, count: int, what: str) -> Process:
        """Read bytes from the die's memory channel: bytes / ddr_bytes_per_s."""
        with self.channels[die].request() as turn:
            yield turn
            begin_ns = int(self.env.now)
            yield self.env.timeout(round(count * 1e9 / self.machine.ddr_bytes_per_s))
            self.channel_ns[die] += int(self.env.now) - begin_ns
            self.channel_bytes += count
            self._note(f"memory channel {die}", what, begin_ns)

    def move(self, start: int, end: int, count: int, what: str) -> Process:
        """Carry bytes from die to die, link by link: bytes / d2d_bytes_per_s on the link, then its latency."""
        path = route(start, end, self.machine.columns)
        for step in pairwise(path):
            link = self.links.setdefault(step, simpy.Resource(self.env))
            with link.request() as turn:
                yield turn
                begin_ns = int(self.env.now)
                yield self.env.timeout(round(count * 1e9 / self.machine.d2d_bytes_per_s))
                self.link_ns[step] = self.link_ns.get(step, 0) + int(self.env.now) - begin_ns
                self.link_bytes += count
                self._note(f"link {step[0]}-{step[1]}", what, begin_ns)
            yield self.env.timeout(self.machine.d2d_latency_ns)
