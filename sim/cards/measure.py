"""Statistics of routing for a card: over decode rows, of each request apart; nothing but the experts' ids is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load, release
from traces.format.trace import DECODE, PREFILL, Trace
from traces.statistics.routing import counted_rows

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
UNION_TOKENS = (1, 2, 4, 8, 16, 32, 64)
WINDOW = 64
"""Tokens before one that may be like it."""
MOST_LIKE_ROWS = 8192
"""Rows of the requests, spread over all, that are compared with those before them."""
FEWEST_PAIRS = 32
"""Pairs of tokens that a lag needs to count."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What `measure` counts. L layers, E experts.

    `use` [L, E]: share of rows that use an expert; `lags` [G], `overlap` [L, G]; `hits` [L, E+1]: share of uses that an
    LRU cache of 0 to E slots holds; `union` [L, U] distinct experts of `UNION_TOKENS`[:U] tokens; `likeness` [n]:
    experts in common with the most alike token of the window; `next_top1`, `alone_top1`: see `sim.cards.card.Coupling`.
    """

    rows: int
    lengths: NDArray[np.int64]
    use: NDArray[np.float64]
    lags: NDArray[np.int64]
    overlap: NDArray[np.float64]
    hits: NDArray[np.float64]
    union_tokens: NDArray[np.int64]
    union: NDArray[np.float64]
    likeness: NDArray[np.float64]
    next_top1: float
    alone_top1: float
    between_halves: float | None
    between_requests: float | None


def counted_requests(trace: Trace, phase: int | None = None) -> Iterator[NDArray[np.int16]]:
    """The ids of each request's counted rows, [n, L, K]; `phase`: of these rows instead.

    Raises: UserError for a trace whose tokens may use fewer than K experts.
    """
    if trace.fewer:
        raise UserError(
            f"trace of {trace.geometry.model}: its tokens may use fewer than top_k={trace.top_k} experts, which a card "
            "cannot describe: take a trace in which all use as many"
        )
    counted = counted_rows(trace) if phase is None else trace.phase == phase
    for start, stop in zip(trace.request_offsets[:-1].tolist(), trace.request_offsets[1:].tolist(), strict=True):
        span = trace.topk_ids[start:stop]
        yield load(span)[counted[start:stop]].astype(np.int32)
        release(span)


def measure(
    requests: Iterator[NDArray[Any]] | list[NDArray[Any]], num_experts: int, like_rows: int = MOST_LIKE_ROWS
) -> Measured:
    """Statistics of requests, each [n, L, K]; memory grows with the longest one only.

    `like_rows`: rows whose likeness to those before is looked at, which takes longest.

    Raises: UserError where there are no rows.
    """
    uses = last = None
    lags, union_tokens = np.asarray(LAGS), np.asarray(UNION_TOKENS)
    lengths: list[int] = []
    likeness: list[NDArray[np.float64]] = []
    touched = halves = weight = 0
    per_request: list[NDArray[np.float64]] = []
    clock = 0
    for ids in requests:
        rows, layers, ranks = ids.shape
        if uses is None:
            uses = np.zeros((layers, num_experts))
            last = np.full((layers, num_experts), -1, np.int64)
            distances = np.zeros((layers, num_experts + 1), np.int64)
            same, pairs = np.zeros((layers, len(lags))), np.zeros(len(lags))
            distinct, windows = np.zeros((layers, len(union_tokens))), np.zeros(len(union_tokens))
            follows = np.zeros((2, max(0, layers - 1), num_experts, num_experts), np.int32)
        lengths.append(rows)
        if rows == 0:
            continue
        assert last is not None
        _count_distances(ids, last, distances, clock)
        clock += rows
        _count_overlap(ids, lags, same, pairs)
        _count_union(ids, num_experts, union_tokens, distinct, windows)
        _count_follows(ids, follows)
        own = _uses(ids, num_experts)
        uses += own
        per_request.append(own / rows)
        if touched < like_rows:
            likeness.append(_likeness(ids[: like_rows - touched], WINDOW)[1:])
            touched += rows
        if rows >= 2:
            first, second = _uses(ids[: rows // 2], num_experts), _uses(ids[rows // 2 :], num_experts)
            halves += float(_distance(first, second)) * rows
            weight += rows
    if uses is None or not sum(lengths):
        raise UserError("the trace has no rows that a card could count")
    total, ranks = sum(lengths), round(float(uses[0].sum()) / sum(lengths))
    known, whole = pairs >= min(FEWEST_PAIRS, max(1, pairs[0])), windows > 0
    hits = np.zeros((len(uses), num_experts + 1))
    hits[:, 1:] = np.cumsum(distances[:, :num_experts], axis=1) / (total * ranks)
    next_top1, alone = _top1(follows, uses, total)
    others = [
        _distance(one, (uses - one * n) / max(1, total - n))
        for one, n in zip(per_request, _positive(lengths), strict=True)
    ]
    return Measured(
        total,
        np.asarray(lengths, np.int64),
        uses / total,
        lags[known],
        same[:, known] / (pairs[known] * ranks),
        hits,
        union_tokens[whole],
        distinct[:, whole] / windows[whole],
        np.concatenate(likeness) if likeness else np.zeros(0),
        next_top1,
        alone,
        halves / weight if weight else None,
        float(np.mean(others)) if len(others) > 1 else None,
    )


def prompt_statistics(trace: Trace, use: NDArray[np.float64]) -> tuple[int, float | None, float | None]:
    """(rows of prompts, their next-token overlap, distance of their popularity from `use`); None without rows."""
    if not (trace.phase == PREFILL).any() or not (trace.phase == DECODE).any():
        return 0, None, None
    rows, counts = 0, np.zeros_like(use)
    same, pairs, lags = np.zeros((trace.num_layers, 1)), np.zeros(1), np.ones(1, np.int64)
    for ids in counted_requests(trace, PREFILL):
        rows += len(ids)
        counts += _uses(ids, trace.num_experts)
        _count_overlap(ids, lags, same, pairs)
    overlap = float(same.mean() / (pairs[0] * trace.top_k)) if pairs[0] else None
    return rows, overlap, float(_distance(counts, use))


def _positive(lengths: list[int]) -> list[int]:
    return [length for length in lengths if length]


def _uses(ids: NDArray[Any], num_experts: int) -> NDArray[np.float64]:
    """Uses of every expert, [L, E]."""
    layers = ids.shape[1]
    flat = ids.astype(np.int64) + np.arange(layers)[None, :, None] * num_experts
    return np.bincount(flat.ravel(), minlength=layers * num_experts).reshape(layers, num_experts).astype(np.float64)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> Any:
    """Total variation distance of two popularities [L, E], mean over layers."""
    a, b = (use / np.maximum(use.sum(axis=1, keepdims=True), 1e-12) for use in (one, other))
    return np.abs(a - b).sum(axis=1).mean() / 2


def _top1(follows: NDArray[np.int32], uses: NDArray[np.float64], rows: int) -> tuple[float, float]:
    """(how often the expert is used that follows this layer's best one most often; the most used one, unconditioned).

    Guessed from every other row, counted over the rows between them.
    """
    alone = float(uses[1:].max(axis=1).mean() / rows) if len(uses) > 1 else float(uses.max() / rows)
    if follows.shape[1] == 0 or not follows[1].any():
        return alone, alone
    guess = follows[0].argmax(axis=2)  # [L-1, E]
    right = np.take_along_axis(follows[1], guess[:, :, None], axis=2).sum(axis=(1, 2))
    return float((right / max(1, rows // 2)).mean()), alone


@njit(cache=True)
def _count_distances(ids: NDArray[Any], last: NDArray[np.int64], counts: NDArray[np.int64], clock: int) -> None:
    """Histogram of LRU stack distances at whole tokens, [L, E+1]; the last entry: never used before."""
    rows, layers, ranks = ids.shape
    num_experts = last.shape[1]
    for layer in range(layers):
        used = last[layer]
        for row in range(rows):
            for rank in range(ranks):
                when = used[ids[row, layer, rank]]
                distance = num_experts
                if when >= 0:
                    distance = 0
                    for other in range(num_experts):
                        distance += used[other] > when
                counts[layer, distance] += 1
            for rank in range(ranks):
                used[ids[row, layer, rank]] = (clock + row) * ranks + rank


@njit(cache=True)
def _count_overlap(ids: NDArray[Any], lags: NDArray[np.int64], same: NDArray[Any], pairs: NDArray[Any]) -> None:
    """Experts in common of tokens so far apart, [L, G], and how many pairs of tokens there were, [G]."""
    rows, layers, ranks = ids.shape
    for at in range(lags.shape[0]):
        lag = lags[at]
        pairs[at] += max(0, rows - lag)
        for row in range(lag, rows):
            for layer in range(layers):
                found = 0
                for rank in range(ranks):
                    for other in range(ranks):
                        found += ids[row, layer, rank] == ids[row - lag, layer, other]
                same[layer, at] += found


@njit(cache=True)
def _count_union(
    ids: NDArray[Any], num_experts: int, tokens: NDArray[np.int64], distinct: NDArray[Any], windows: NDArray[Any]
) -> None:
    """Distinct experts of windows of so many tokens side by side, [L, U], and how many windows, [U]."""
    rows, layers, ranks = ids.shape
    seen = np.full(num_experts, -1, np.int64)
    stamp = 0
    for at in range(tokens.shape[0]):
        length = tokens[at]
        windows[at] += rows // length
        for window in range(rows // length):
            for layer in range(layers):
                stamp += 1
                found = 0
                for row in range(window * length, (window + 1) * length):
                    for rank in range(ranks):
                        expert = ids[row, layer, rank]
                        found += seen[expert] != stamp
                        seen[expert] = stamp
                distinct[layer, at] += found


@njit(cache=True)
def _count_follows(ids: NDArray[Any], follows: NDArray[Any]) -> None:
    """How often an expert of the next layer is used with the best one of a layer, even and odd rows, [2, L-1, E, E]."""
    rows, layers, ranks = ids.shape
    for row in range(rows):
        for layer in range(layers - 1):
            for rank in range(ranks):
                follows[row & 1, layer, ids[row, layer, 0], ids[row, layer + 1, rank]] += 1


@njit(cache=True)
def _likeness(ids: NDArray[Any], window: int) -> NDArray[np.float64]:
    """Share of experts that the most alike of the tokens before has in common, [n]."""
    rows, layers, ranks = ids.shape
    best = np.zeros(rows)
    for row in range(rows):
        for before in range(max(0, row - window), row):
            same = 0
            for layer in range(layers):
                for rank in range(ranks):
                    for other in range(ranks):
                        same += ids[row, layer, rank] == ids[before, layer, other]
            best[row] = max(best[row], same / (layers * ranks))
    return best
