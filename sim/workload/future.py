"""When every demanded expert is demanded next, for rules that may see the future."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from policies.state import NEVER
from sim.spill import Spill
from traces.errors import UserError

NEVER_AGAIN = 2**32 - 1
"""Stored distance of an access whose expert is never demanded again."""
Block = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Rows of the trace in replay order [N], bounds of its whole steps in them [S + 1], from 0, and a number of each step
[S]: what follows a step of another number is not looked at."""


class FutureUse:
    """The next demand of every access, kept in a temporary file at 4 bytes per access and read back block by block.

    Times are values of the engine's ``now``, which counts from 1: layer steps in the order of the replay, so that
    layer l of step i is i * L + l + 1; with ``sequential`` single accesses in the order step, layer, token, rank. All
    accesses of a layer step look beyond it, ``sequential`` ones to the next access of all.

    ``read_ids`` gives the ids [n, L, K] of trace rows [n] as they are replayed: ``read`` keeps the order of its ranks;
    negative ones are no accesses. Where a cache is reset, what comes behind is of no use to what is in it: the steps
    before have another number than those after.
    ``first`` [L, E]: the first demand of each expert, NEVER without any.
    """

    def __init__(
        self,
        read_ids: Callable[[NDArray[np.int64]], NDArray[Any]],
        blocks: Iterable[Block],
        num_layers: int,
        num_experts: int,
        sequential: bool = False,
    ) -> None:
        self.num_layers, self.sequential = num_layers, sequential
        self.order = Spill(np.int64, 4)  # trace row, step, first position and number of rows of its step
        cuts, steps = [0], 0
        stretches: list[int] = []  # number of the steps behind each cut
        for rows, bounds, numbers in blocks:
            self.order.append(_order_of(rows, bounds, steps, cuts[-1]))
            begins = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))  # of steps of one number
            stretches += numbers[begins].tolist()
            cuts += [*(cuts[-1] + bounds[begins[1:]]).tolist(), cuts[-1] + len(rows)]
            steps += len(bounds) - 1
        self.first = np.full((num_layers, num_experts), NEVER, np.int64)
        self.distances: Spill | None = None
        self.firsts, self.places = Spill(np.int64, num_layers * num_experts), dict[int, int]()
        for start, stop, number in zip(cuts[-2::-1], cuts[:0:-1], reversed(stretches), strict=True):
            if number not in self.places:
                self._begin(number)
            self._look_back(read_ids, start, stop)
            self.firsts.write(self.places[number], self.first.reshape(1, -1))

    def _begin(self, number: int) -> None:
        """Nothing is known of what follows the steps of this number."""
        self.places[number] = len(self.places)
        self.first[:] = NEVER

    def first_of(self, number: int) -> NDArray[np.int64]:
        """[L, E] first demand of each expert in the steps of this number, NEVER without any."""
        return self.firsts.read(self.places[number], 1).reshape(self.first.shape)

    def _look_back(self, read_ids: Callable[[NDArray[np.int64]], NDArray[Any]], start: int, stop: int) -> None:
        """Store the distances of one block; ``first`` moves from what follows the block to what follows its start."""
        order = self.order.read(start, stop - start)
        ids = np.ascontiguousarray(read_ids(order[:, 0]))
        distances = np.empty(ids.shape, np.uint32)
        if not store_distances(ids, order, start, self.first, self.sequential, distances):
            most = NEVER_AGAIN - 1
            raise UserError(f"a rule that sees the future reaches {most} steps ahead, and this trace is longer")
        if self.distances is None:
            self.distances = Spill(np.uint32, ids.shape[1] * ids.shape[2])
        self.distances.write(start, distances.reshape(len(ids), -1))

    def read(self, position: int, count: int) -> NDArray[np.int64]:
        """The next demand after each access of ``count`` rows of the replay, [count, L, K] int64; NEVER if none."""
        if self.distances is None:
            raise IndexError("the replay has no rows")
        order = self.order.read(position, count)
        distance = self.distances.read(position, count).reshape(count, self.num_layers, -1)
        result = np.empty(distance.shape, np.int64)
        add_distances(distance, order, position, self.sequential, result)
        return result


def _order_of(rows: NDArray[np.int64], bounds: NDArray[np.int64], steps: int, position: int) -> NDArray[np.int64]:
    """What is stored of each row of a block that begins at a step and at a position of the replay, [N, 4]."""
    sizes = np.diff(bounds)
    columns = (rows, np.repeat(np.arange(steps, steps + len(sizes)), sizes))
    return np.stack([*columns, np.repeat(position + bounds[:-1], sizes), np.repeat(sizes, sizes)], axis=1)


@njit(cache=True)
def now_of(row: Any, place: int, layer: int, rank: int, layers: int, ranks: int, sequential: bool) -> int:
    """The engine's ``now`` of an access at position ``place`` of the replay, ``row`` of ``FutureUse.order``."""
    if not sequential:
        return int(row[1] * layers + layer + 1)
    return int(row[2] * layers * ranks + (layer * row[3] + place - row[2]) * ranks + rank + 1)


@njit(cache=True)
def store_distances(
    ids: Any, order: Any, start: int, upcoming: NDArray[np.int64], sequential: bool, distances: NDArray[np.uint32]
) -> bool:
    """Distances to the next demand, [n, L, K], of whole steps from the last to the first; False if one is too large.

    A distance counts steps, or accesses with ``sequential``; ``upcoming`` [L, E] is the next demand after the block,
    and then that after its start.
    """
    count, layers, ranks = ids.shape
    unit = 1 if sequential else layers
    stop = count
    while stop > 0:
        begin = order[stop - 1, 2] - start
        for layer in range(layers):
            for i in range(stop - 1, begin - 1, -1):
                for rank in range(ranks - 1, -1, -1):
                    expert = ids[i, layer, rank]
                    if expert < 0:
                        distances[i, layer, rank] = NEVER_AGAIN
                        continue
                    now = now_of(order[i], start + i, layer, rank, layers, ranks, sequential)
                    then = upcoming[layer, expert]
                    distance = NEVER_AGAIN if then == NEVER else (then - now) // unit
                    if then != NEVER and distance >= NEVER_AGAIN:
                        return False
                    distances[i, layer, rank] = distance
                    if sequential:
                        upcoming[layer, expert] = now
            if not sequential:
                now = now_of(order[begin], start + begin, layer, 0, layers, ranks, sequential)
                for i in range(begin, stop):
                    for rank in range(ranks):
                        if ids[i, layer, rank] >= 0:
                            upcoming[layer, ids[i, layer, rank]] = now
        stop = begin
    return True


@njit(cache=True)
def add_distances(
    distance: NDArray[np.uint32], order: Any, position: int, sequential: bool, result: NDArray[np.int64]
) -> None:
    """Turn distances [n, L, K] into times."""
    count, layers, ranks = distance.shape
    unit = 1 if sequential else layers
    for i in range(count):
        for layer in range(layers):
            for rank in range(ranks):
                steps = distance[i, layer, rank]
                if steps == NEVER_AGAIN:
                    result[i, layer, rank] = NEVER
                else:
                    now = now_of(order[i], position + i, layer, rank, layers, ranks, sequential)
                    result[i, layer, rank] = now + np.int64(steps) * unit
