"""The score bands of SMoE: which experts matter, written once for substitution, prefetch and statistics."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray


@register_jitable  # type: ignore[untyped-decorator]
def next_score(scores: NDArray[np.float32], ids: NDArray[np.int32], num_ranks: int) -> float:
    """S_{k+1}: the highest of ``scores`` [E] outside the first ``num_ranks`` of ``ids``; 0 if there is none.

    Source: SMoE, notation of section 3, https://arxiv.org/abs/2508.18983.
    """
    best = np.float32(0.0)
    for expert in range(scores.shape[0]):
        chosen = False
        for rank in range(num_ranks):
            if ids[rank] == expert:
                chosen = True
        if not chosen and scores[expert] > best:
            best = scores[expert]
    return float(best)


@register_jitable  # type: ignore[untyped-decorator]
def is_top(score: float, edge: float, alpha: float) -> bool:
    """Whether a chosen expert is top-score: not below (1 + alpha) * S_{k+1}, with ``edge`` = S_{k+1}."""
    return bool(score >= (1.0 + alpha) * edge)


@register_jitable  # type: ignore[untyped-decorator]
def top_experts(scores: NDArray[np.float32], count: int, found: NDArray[np.int32]) -> None:
    """Write the ``count`` experts with the highest of ``scores`` [E] to ``found``, best first, ties to the lower id."""
    for rank in range(count):
        best = -1
        for expert in range(scores.shape[0]):
            taken = False
            for earlier in range(rank):
                if found[earlier] == expert:
                    taken = True
            if not taken and (best < 0 or scores[expert] > scores[best]):
                best = expert
        found[rank] = best
