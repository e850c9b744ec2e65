"""Splitting missing experts between link and CPU: what a split costs, and which one costs least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import ABSENT, CPU, LINK, State

MOST_TRIED = 12
"""Up to so many experts of different cost every one of the 2^n splits is tried."""

AFTER_ALL_NS = 2.0**52
"""Longer than any copy, and small enough that sums with whole nanoseconds stay exact in float64."""

Nanoseconds = NDArray[np.int64]
Places = NDArray[np.int32]


@jitable
def ready_ns(state: State) -> int:
    """How long the GPU computes executed experts that need no copy, while the first copies are under way."""
    total = 0
    for i in range(state.num_executed):
        if state.status[state.layer, state.executed[i]] != ABSENT:
            total += state.executed_gpu_ns[i]
    return total


@jitable
def sort_falling(keys: NDArray[np.float64], count: int, order: Places) -> None:
    """Write to ``order`` the first ``count`` places by falling key; equal keys stay in the order they had in it."""
    for i in range(1, count):
        moving, place = order[i], i
        while place > 0 and keys[order[place - 1]] < keys[moving]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = moving


@jitable
def by_first_touch(state: State, order: Places) -> None:
    """Write the missing experts to ``order`` as the step first touches them, token by token, best rank first."""
    listed, place = np.zeros(state.num_missing, np.uint8), 0
    for token in range(state.num_tokens):
        for rank in range(state.num_ranks):
            for i in range(state.num_missing):
                if listed[i] == 0 and state.missing[i] == state.executed_ids[token, rank]:
                    listed[i] = 1
                    order[place] = i
                    place += 1
    for i in range(state.num_missing):  # what no token executes any more
        if listed[i] == 0:
            order[place] = i
            place += 1


@jitable
def by_importance(state: State, order: Places) -> None:
    """Write the missing experts to ``order``, the most important first."""
    keys = np.zeros(state.num_missing, np.float64)
    for i in range(state.num_missing):
        order[i] = i
        keys[i] = state.missing_importance[i]
    sort_falling(keys, state.num_missing, order)


@jitable
def serving_order(load_ns: Nanoseconds, gpu_ns: Nanoseconds, count: int, order: Places) -> None:
    """Reorder ``order`` so that copy, then compute of its experts in that order ends soonest.

    Johnson's rule for two machines in a row: first those whose copy is shorter than their compute, by rising copy time,
    then the others by falling compute time. Source: S. M. Johnson, Naval Research Logistics Quarterly 1(1), 1954,
    https://doi.org/10.1002/nav.3800010110.
    """
    keys = np.zeros(count, np.float64)
    for i in range(count):
        keys[i] = gpu_ns[i] - AFTER_ALL_NS if load_ns[i] >= gpu_ns[i] else -float(load_ns[i])
    sort_falling(keys, count, order)


@jitable
def finish_ns(
    load_ns: Nanoseconds, gpu_ns: Nanoseconds, cpu_ns: Nanoseconds, order: Places, side: NDArray[np.uint8], ready: int
) -> int:
    """When the last expert of a split is done: max of the CPU's sum and the GPU's end.

    Copies follow each other on the link in ``order``; the GPU is free after ``ready`` ns and computes each expert once
    it has arrived.
    """
    link, gpu, cpu = 0, ready, 0
    for i in range(order.shape[0]):
        expert = order[i]
        if side[expert] == CPU:
            cpu += cpu_ns[expert]
        else:
            link += load_ns[expert]
            gpu = max(gpu, link) + gpu_ns[expert]
    return max(gpu, cpu)


@jitable
def find_best_split(
    load_ns: Nanoseconds,
    gpu_ns: Nanoseconds,
    cpu_ns: Nanoseconds,
    preferred: Places,
    ready: int,
    side: NDArray[np.uint8],
) -> None:
    """Write to ``side`` the split that finishes soonest; of equals the one that gives the CPU the least preferred.

    All 2^n splits are tried for n <= MOST_TRIED experts. Where all experts cost the same, or there are more of them,
    only the n + 1 splits are tried that give the link the experts dearest to the CPU: exact if copies and GPU computes
    cost the same for all (then only the number on each side counts, and the CPU should take its cheapest), else a
    heuristic. ``preferred`` [n] is the order in which experts would best go to the link.
    """
    count = preferred.shape[0]
    serving = preferred.copy()
    serving_order(load_ns, gpu_ns, count, serving)
    trial = np.full(count, LINK, np.uint8)
    best = -1
    same = True
    for i in range(1, count):
        same = same and load_ns[i] == load_ns[0] and gpu_ns[i] == gpu_ns[0] and cpu_ns[i] == cpu_ns[0]
    if same or count > MOST_TRIED:
        dearest = preferred.copy()
        keys = np.zeros(count, np.float64)
        for i in range(count):
            keys[i] = cpu_ns[i]
        sort_falling(keys, count, dearest)
        for on_cpu in range(count + 1):
            if on_cpu > 0:
                trial[dearest[count - on_cpu]] = CPU
            finish = finish_ns(load_ns, gpu_ns, cpu_ns, serving, trial, ready)
            if best < 0 or finish < best:
                best = finish
                side[:count] = trial
        return
    for split in range(1 << count):
        for i in range(count):
            trial[preferred[count - 1 - i]] = CPU if (split >> i) & 1 else LINK
        finish = finish_ns(load_ns, gpu_ns, cpu_ns, serving, trial, ready)
        if best < 0 or finish < best:
            best = finish
            side[:count] = trial


@jitable
def soonest_ns(link_ns: float, load_ns: float, gpu_ns: float, cpu_ns: NDArray[np.float64], ready_ns: float) -> float:
    """Soonest end of n missing experts that cost the same on link and GPU, ``cpu_ns`` [n] on the CPU (sorted here).

    The link is free after ``link_ns``, the GPU after ``ready_ns``; it computes what is copied after the last copy. The
    CPU takes its cheapest; every number of experts on it is tried.
    """
    count, on_cpu, best = cpu_ns.shape[0], 0.0, np.inf
    cpu_ns.sort()
    for copies in range(count, -1, -1):
        if copies < count:
            on_cpu += cpu_ns[count - copies - 1]
        on_gpu = max(ready_ns, link_ns + copies * load_ns) + copies * gpu_ns if copies > 0 else ready_ns
        best = min(best, max(on_gpu, on_cpu))
    return float(best)
