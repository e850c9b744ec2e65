"""Hits of step-wise LRU at every capacity in one pass over a trace (Mattson's stack distances, layer steps as units).

A layer step's demand is the set of experts over its tokens; all are looked up against the state at its start, then
touched token by token, best rank first. A prompt's prefill is one step, every decode row is one step (batch 1).
An expert with d other experts touched more recently hits at every capacity above d. This holds for capacities below a
step's demand too, where the step keeps its most recent experts and the rest streams through (`cache.overflow=stream`):
after every step the residents are the C most recently touched experts, whatever C is.
Source: Mattson et al., Evaluation techniques for storage hierarchies, IBM Systems Journal 9(2), 1970.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from traces.format.mapped import load, release
from traces.format.ranks import signed_ids
from traces.format.trace import DECODE, Trace

_CHUNK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class MissCurve:
    """LRU hits by phase, layer and capacity, caches of equal capacity per layer, cold start.

    `hits` [2, L, E+1] int64, hits[p, l, C] at C slots; `demands` [2, L] int64, distinct (layer step, expert) pairs;
    p is PREFILL or DECODE.
    """

    hits: NDArray[np.int64]
    demands: NDArray[np.int64]

    def hit_rate(self, capacity: int, phase: int | None = None) -> float:
        """Hits over demands at `capacity` slots per layer, in one phase or in both; NaN without demands."""
        phases = slice(None) if phase is None else slice(phase, phase + 1)
        demands = int(self.demands[phases].sum())
        return int(self.hits[phases, :, capacity].sum()) / demands if demands else float("nan")


@dataclass(frozen=True, slots=True)
class DistanceChunk:
    """Stack distances of rows start..stop: `distances` [n, L, K] uint16.

    Below E: experts touched more recently than this one at the step's start. E: never touched before (misses at every
    capacity). E + 1: the step demanded this expert already in an earlier token, or the rank holds no expert.
    """

    start: int
    stop: int
    distances: NDArray[np.uint16]


def step_starts(trace: Trace) -> NDArray[np.int64]:
    """First row of every step at batch 1, [S] int64: each prompt's prefill, then each decode row."""
    first = trace.phase == DECODE
    first[trace.request_offsets[:-1]] = True
    return np.flatnonzero(first)


def stack_distances(trace: Trace, reset_per_request: bool = False) -> Iterator[DistanceChunk]:
    """LRU stack distances of the whole trace, a chunk of whole steps at a time."""
    starts = np.append(step_starts(trace), trace.num_tokens)
    new_request = np.isin(starts[:-1], trace.request_offsets) if reset_per_request else np.zeros(len(starts) - 1, bool)
    last_touch = np.full((trace.num_layers, trace.num_experts), -1, np.int64)
    step = 0
    while step < len(starts) - 1:
        end = int(np.searchsorted(starts, starts[step] + _CHUNK_ROWS, side="right")) - 1
        end = max(end, step + 1)  # a prompt longer than a chunk is still one step
        start, stop = int(starts[step]), int(starts[end])
        ids = load(trace.topk_ids[start:stop])
        if trace.fewer:
            ids = signed_ids(ids, True)
        distances = _distances(ids, starts[step : end + 1] - start, new_request[step:end], start, last_touch)
        release(trace.topk_ids[start:stop])
        yield DistanceChunk(start, stop, distances)
        step = end


def lru_miss_curve(trace: Trace, reset_per_request: bool = False) -> MissCurve:
    """Step-LRU hits of `trace` at every capacity; the cache is carried over requests unless reset."""
    counts = np.zeros((2, trace.num_layers, trace.num_experts + 2), np.int64)
    for chunk in stack_distances(trace, reset_per_request):
        _count(chunk.distances, trace.phase[chunk.start : chunk.stop], counts)
    hits = np.zeros((2, trace.num_layers, trace.num_experts + 1), np.int64)
    np.cumsum(counts[:, :, : trace.num_experts], axis=-1, out=hits[:, :, 1:])
    demands = counts[:, :, : trace.num_experts + 1].sum(axis=-1)
    return MissCurve(hits, demands)


@njit(cache=True)
def _distances(
    ids: NDArray[Any],
    bounds: NDArray[np.int64],
    new_request: NDArray[np.bool_],
    first_row: int,
    last_touch: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """Distances of whole steps, ids [n, L, K]; `last_touch` [L, E] is the state, carried from chunk to chunk."""
    rows, num_layers, top_k = ids.shape
    num_experts = last_touch.shape[1]
    out = np.empty((rows, num_layers, top_k), np.uint16)
    seen = np.full(num_experts, -1, np.int64)
    for layer in range(num_layers):
        touched = last_touch[layer]
        seen[:] = -1
        for step in range(len(bounds) - 1):
            if new_request[step]:
                touched[:] = -1
            for row in range(bounds[step], bounds[step + 1]):
                for rank in range(top_k):
                    expert = ids[row, layer, rank]
                    if expert < 0 or seen[expert] == step:
                        out[row, layer, rank] = num_experts + 1
                        continue
                    seen[expert] = step
                    last = touched[expert]
                    distance = num_experts
                    if last >= 0:
                        distance = 0
                        for other in range(num_experts):
                            distance += touched[other] > last
                    out[row, layer, rank] = distance
            for row in range(bounds[step], bounds[step + 1]):
                for rank in range(top_k):
                    if ids[row, layer, rank] >= 0:
                        touched[ids[row, layer, rank]] = (first_row + row) * top_k + rank
    return out


@njit(cache=True)
def _count(distances: NDArray[np.uint16], phase: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Add the histogram of distances [n, L, K] to counts [2, L, E+2]."""
    for row in range(distances.shape[0]):
        for layer in range(distances.shape[1]):
            for rank in range(distances.shape[2]):
                counts[phase[row], layer, distances[row, layer, rank]] += 1
