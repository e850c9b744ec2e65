"""How unevenly and how repeatedly a trace uses its experts: popularity, reuse by the next token.

Needs nothing but ids. Every number is over the rows that `counted_rows` gives: decode rows, or all where none is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.format.mapped import load
from traces.format.ranks import signed_ids, use_counts
from traces.format.trace import DECODE, Trace

_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Popularity:
    """How unevenly experts are used, per layer.

    `top_quarter_share` [L]: share of all uses that go to the quarter (rounded up) of experts used most; .25 if uniform.
    `entropy` [L]: entropy of the shares of use over its maximum log(E); 1 if uniform.
    """

    top_quarter_share: NDArray[np.float64]
    entropy: NDArray[np.float64]


def counted_rows(trace: Trace) -> NDArray[np.bool_]:
    """Rows that statistics are over, [T] bool: decode rows, or all rows where none is decode."""
    decode = trace.phase == DECODE
    return decode if decode.any() else np.ones(trace.num_tokens, bool)


def row_chunks(start: int, stop: int, bytes_per_row: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive chunks of rows start..stop that take bounded memory."""
    size = max(1, _CHUNK_BYTES // max(1, bytes_per_row))
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def expert_uses(trace: Trace) -> NDArray[np.int64]:
    """Uses of every expert over the counted rows, [L, E]; one per (token, rank)."""
    uses = np.zeros((trace.num_layers, trace.num_experts), np.int64)
    counted = counted_rows(trace)
    for start, stop in row_chunks(0, trace.num_tokens, trace.num_layers * trace.top_k * 16):
        ids = load(trace.topk_ids[start:stop])[counted[start:stop]]
        uses += use_counts(ids, trace.fewer, trace.num_experts)
    return uses


def experts_per_token(trace: Trace) -> float:
    """Mean number of experts of a token in a layer over the counted rows: K unless tokens may use fewer."""
    return float(expert_uses(trace).sum()) / (int(counted_rows(trace).sum()) * trace.num_layers)


def popularity(trace: Trace) -> Popularity:
    """Share of the most used quarter and normalised entropy of use, per layer."""
    from scipy.special import entr

    uses = expert_uses(trace)
    shares = uses / np.maximum(uses.sum(axis=1, keepdims=True), 1)  # [L, E]; a layer that no token used has none
    quarter = math.ceil(trace.num_experts / 4)
    top = np.sort(shares, axis=1)[:, -quarter:].sum(axis=1)
    return Popularity(top, entr(shares).sum(axis=1) / np.log(trace.num_experts))


def next_token_reuse(trace: Trace) -> float:
    """Share of a token's experts that the token before it used in the same layer.

    Over pairs of neighbouring rows of one request that are both counted rows; NaN where there is no such pair.
    """
    counted = counted_rows(trace)
    paired = counted[1:] & counted[:-1]  # [T-1]
    paired[trace.request_offsets[1:-1] - 1] = False
    reused = pairs = 0
    for start, stop in row_chunks(0, len(paired), trace.num_layers * trace.top_k**2 * 2):
        first = np.flatnonzero(paired[start:stop]) + start
        earlier, later = trace.topk_ids[first], trace.topk_ids[first + 1]  # [n, L, K]
        used = signed_ids(later, trace.fewer) >= 0
        pairs += int(used.sum())
        reused += int(((later[..., :, None] == earlier[..., None, :]).any(axis=-1) & used).sum())
    return reused / pairs if pairs else float("nan")


def label_counts(trace: Trace) -> dict[str, tuple[int, int]]:
    """Requests and rows per request label, in order of first appearance; empty without labels."""
    counts: dict[str, tuple[int, int]] = {}
    for label, rows in zip(trace.request_labels or (), np.diff(trace.request_offsets), strict=False):
        requests, tokens = counts.get(label, (0, 0))
        counts[label] = (requests + 1, tokens + int(rows))
    return counts
