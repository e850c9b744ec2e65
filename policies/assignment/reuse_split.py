"""Split so that the layer ends soonest, what is most worth keeping over the link, late experts where they end first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Assignment, Vector
from policies.jitable import jitable
from policies.needs import Need
from policies.splits import ready_ns, sort_falling
from policies.state import CPU, IN_FLIGHT, LINK, State

Places = NDArray[np.int32]


@dataclass(frozen=True)
class ReuseSplit(Assignment):
    """Copy the missing experts that the eviction rule values most, compute the others on the CPU; of all such splits
    take the one that ends soonest.

    Among experts of equal cost only their number on each side decides when the layer ends, so that which of them are
    copied is free: what is copied stays in the cache and what the CPU computes does not, hence by falling
    ``state.priority``. A split with n copies ends at max(GPU, CPU): the link goes on from what is on it now, the GPU
    computes what is there and then, after the last copy, what came; the CPU adds up its own. Of equally fast splits the
    one with most copies. An expert that is late (its prefetch is on the link or paused) is tried both as the first
    copy, which it is, and as the first for the CPU: no copy is awaited that the CPU would beat.
    Badly: ends are of this layer alone; experts of unequal tokens on the CPU are not swapped between the sides.

    Source: rule of this project; late experts as in llama.cpp's expert cache (``cpu_and_promote``).
    """

    one_layer: ClassVar[bool] = True
    takes_late: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        count, layer, late = state.num_missing, state.layer, -1
        worth, ranked = np.zeros(count, np.float64), np.zeros(count, np.int32)
        for i in range(count):
            ranked[i], worth[i] = i, state.priority[layer, state.missing[i]]
            if state.status[layer, state.missing[i]] == IN_FLIGHT:
                late = i
        sort_falling(worth, count, ranked)
        if late >= 0:
            move(ranked, late, False)
            without, without_ns = soonest(state, ranked)
            move(ranked, late, True)
        copies, end_ns = soonest(state, ranked)
        if late >= 0 and without_ns < end_ns:
            copies = without
            move(ranked, late, False)
        for i in range(count):
            state.order[i] = ranked[i]
            state.side[ranked[i]] = LINK if i < copies else CPU


@jitable
def move(ranked: Places, one: int, first: bool) -> None:
    """Take one out of ``ranked`` and put it first or last."""
    place = 0
    for i in range(ranked.shape[0]):
        if ranked[i] != one:
            ranked[place] = ranked[i]
            place += 1
    if first:
        for i in range(place, 0, -1):
            ranked[i] = ranked[i - 1]
    ranked[0 if first else place] = one


@jitable
def soonest(state: State, ranked: Places) -> tuple[int, int]:
    """How many of ``ranked`` to copy so that the layer ends soonest, the most of equals -> (their number, its end)."""
    best, least = -1, 0
    for copies in range(ranked.shape[0], -1, -1):
        end_ns = end_of(state, ranked, copies)
        if best < 0 or end_ns < least:
            best, least = copies, end_ns
    return best, least


@jitable
def end_of(state: State, ranked: Places, copies: int) -> int:
    """When the layer ends if the first ``copies`` of ``ranked`` are copied and the CPU computes the others."""
    link_ns, gpu_ns, cpu_ns = int(state.link_left_ns), int(ready_ns(state)), 0
    for i in range(copies):
        if state.status[state.layer, state.missing[ranked[i]]] == IN_FLIGHT:
            link_ns = max(link_ns, state.missing_load_ns[ranked[i]])
        else:
            link_ns += state.missing_load_ns[ranked[i]]
    if copies > 0:
        gpu_ns = max(gpu_ns, link_ns)
    for i in range(ranked.shape[0]):
        if i < copies:
            gpu_ns += state.missing_gpu_ns[ranked[i]]
        else:
            cpu_ns += state.missing_cpu_ns[ranked[i]]
    return max(gpu_ns, cpu_ns)
