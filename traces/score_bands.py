"""The best experts of a token and the score bands of SMoE: one definition for rules and for statistics.

Loops over all experts have no branches, so that the compiler works on many experts at once; a key carries an expert
along with its score, so that a plain maximum finds the best expert.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

Flags = NDArray[Any]
"""[E] of any number type: 0 is no."""
BELOW_ALL, ABOVE_ALL = -(2**62), 2**62
"""Keys below and above the key of every expert."""
MOST_EXPERTS = 2**16


@register_jitable
def key_of(score: float, expert: int) -> int:
    """A whole number that orders experts by their scores (float32, not negative), ties to the lower id."""
    bits = np.int64(np.float32(score).view(np.int32))  # of two such numbers the greater has the greater bit pattern
    return int(bits * MOST_EXPERTS + (MOST_EXPERTS - 1 - expert))


@register_jitable
def expert_of(key: int) -> int:
    """The expert of a key."""
    return int(MOST_EXPERTS - 1 - key % MOST_EXPERTS)


@register_jitable
def best_key_below(scores: NDArray[np.float32], limit: int) -> int:
    """The highest key below ``limit`` among ``scores`` [E]; BELOW_ALL if there is none."""
    best = BELOW_ALL
    for expert in range(scores.shape[0]):
        key = key_of(scores[expert], expert)
        best = max(best, key if key < limit else BELOW_ALL)
    return best


@register_jitable
def best_within(scores: NDArray[np.float32], free: Flags, lowest: float, highest: float, include_highest: bool) -> int:
    """The best expert among those ``free`` whose score lies from ``lowest`` up to ``highest``; -1 if there is none."""
    best = BELOW_ALL
    for expert in range(scores.shape[0]):
        score = scores[expert]
        inside = (score >= lowest) & ((score < highest) | ((score == highest) & include_highest))
        best = max(best, key_of(score, expert) if inside & (free[expert] != 0) else BELOW_ALL)
    return -1 if best == BELOW_ALL else expert_of(best)


@register_jitable
def next_score(scores: NDArray[np.float32], ids: NDArray[np.int32], num_ranks: int) -> float:
    """S_{k+1}: the highest of ``scores`` [E] outside the first ``num_ranks`` of ``ids``; 0 if there is none.

    Source: SMoE, notation of section 3, https://arxiv.org/abs/2508.18983.
    """
    key = ABOVE_ALL
    while True:
        key = best_key_below(scores, key)
        if key == BELOW_ALL:
            return 0.0
        chosen = False
        for rank in range(num_ranks):
            chosen = chosen or ids[rank] == expert_of(key)
        if not chosen:
            return float(max(scores[expert_of(key)], np.float32(0.0)))


@register_jitable
def next_score_beside(scores: NDArray[np.float32], routed: Flags) -> float:
    """S_{k+1} in one pass: the highest of ``scores`` [E] of experts that are not ``routed`` [E]; 0 if there is none."""
    best = BELOW_ALL
    for expert in range(scores.shape[0]):
        best = max(best, key_of(scores[expert], expert) if routed[expert] == 0 else BELOW_ALL)
    return 0.0 if best == BELOW_ALL else float(scores[expert_of(best)])


@register_jitable
def is_top(score: float, edge: float, alpha: float) -> bool:
    """Whether a chosen expert is top-score: not below (1 + alpha) * S_{k+1}, with ``edge`` = S_{k+1}."""
    return bool(score >= (1.0 + alpha) * edge)


@register_jitable
def top_experts(scores: NDArray[np.float32], count: int, best: NDArray[Any]) -> None:
    """Write the ``count`` experts with the highest of ``scores`` [E] to ``best``, best first, ties to the lower id."""
    key = ABOVE_ALL
    for rank in range(count):
        key = best_key_below(scores, key)
        best[rank] = expert_of(key)
