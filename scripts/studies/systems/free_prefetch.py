"""MoE-Beyond's own arithmetic: hit rates of an LRU cache whose prefetches cost nothing and are always in time.

As its released code counts: one LRU of ``capacity`` experts over all layers; before each (token, layer) the predicted
experts are put into it, then the router's experts are looked up one after the other, each miss taking a place. The
loads are counted here too, which shows what such a hit rate is paid with.
Source: https://github.com/ngavhane/moe-beyond, with https://arxiv.org/abs/2508.17137.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.predictors.inputs import UNKNOWN

OUTSIDE = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class FreePrefetch:
    """What one pass counted."""

    tokens: int
    accesses: int
    hits: int
    right: int
    """Accesses to an expert that was predicted for that token and layer."""
    demand_loads: int
    prefetch_loads: int

    @property
    def hit_rate(self) -> float:
        return self.hits / self.accesses

    @property
    def recall(self) -> float:
        """Share of the accesses that were predicted."""
        return self.right / self.accesses

    @property
    def loads_per_token(self) -> float:
        """Copies of experts per token, prefetched ones included."""
        return (self.demand_loads + self.prefetch_loads) / self.tokens


def count_hits(
    ids: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_experts: int,
    capacity: int,
    request_offsets: NDArray[np.int64] | None = None,
    start: NDArray[np.int64] | None = None,
) -> FreePrefetch:
    """Count one pass over ids [T, L, K] with predicted experts [T, L, P] (UNKNOWN for none; P = 0: plain LRU).

    ``start``: experts (layer * E + expert) in the cache at first, the least recent first; empty if not given. With
    ``request_offsets`` [R+1] the cache begins like that in every request, else only once.
    """
    offsets = np.array([0, len(ids)], np.int64) if request_offsets is None else request_offsets
    begins = np.zeros(0, np.int64) if start is None else start[-capacity:]
    counts = _count(
        np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(predicted, np.int64), num_experts, capacity,
        offsets, begins,
    )  # fmt: skip
    accesses, hits, right, demand_loads, prefetch_loads = (int(count) for count in counts)
    return FreePrefetch(len(ids), accesses, hits, right, demand_loads, prefetch_loads)


def best_predicted(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The ``count`` experts of highest score [n, L, count], UNKNOWN where all scores are 0 (nothing is predicted)."""
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :count].astype(np.int64)
    return np.where(scores.any(axis=-1, keepdims=True), best, UNKNOWN)


@njit(cache=True)
def _touch(expert: int, last_use: NDArray[np.int64], now: int, capacity: int) -> bool:
    """Make ``expert`` the most recent, evicting the least recent if it was not there -> whether it was.

    ``last_use``: when each expert was last used, OUTSIDE for those that are not in the cache.
    """
    inside = last_use[expert] != OUTSIDE
    if not inside and (last_use != OUTSIDE).sum() == capacity:
        last_use[last_use.argmin()] = OUTSIDE
    last_use[expert] = now
    return bool(inside)


@njit(cache=True)
def _count(
    ids: NDArray[np.int64],
    predicted: NDArray[np.int64],
    num_experts: int,
    capacity: int,
    offsets: NDArray[np.int64],
    start: NDArray[np.int64],
) -> NDArray[np.int64]:
    """[accesses, hits, predicted accesses, demand loads, prefetch loads]."""
    layers, counts, now = ids.shape[1], np.zeros(5, np.int64), 0
    last_use = np.empty(layers * num_experts, np.int64)
    for request in range(len(offsets) - 1):
        last_use[:] = OUTSIDE
        for expert in start:
            now += 1
            _touch(expert, last_use, now, capacity)
        for row in range(offsets[request], offsets[request + 1]):
            for layer in range(layers):
                for guess in predicted[row, layer]:
                    now += 1
                    if guess != UNKNOWN:
                        counts[4] += not _touch(layer * num_experts + guess, last_use, now, capacity)
                for expert in ids[row, layer]:
                    now += 1
                    hit = _touch(layer * num_experts + expert, last_use, now, capacity)
                    counts[0] += 1
                    counts[1] += hit
                    counts[2] += (predicted[row, layer] == expert).sum()
                    counts[3] += not hit
    return counts
