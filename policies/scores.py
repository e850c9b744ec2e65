"""For all rules: gate scores of a step, of a token and of a rank, and the best experts by any score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import State
from traces.score_bands import Flags, next_score

SMALLEST_SCORE = 1e-30
"""Scores below it count as this much, so that their logarithm is finite (float32 scores may be 0)."""


@jitable
def mean_scores(state: State, mean: NDArray[np.float64]) -> None:
    """Write the gate scores of the step, averaged over its tokens, to ``mean`` [E]."""
    scores, tokens = state.scores, state.num_tokens
    if tokens == 1:  # the same numbers without dividing by one
        for expert in range(state.num_experts):
            mean[expert] = scores[0, expert]
        return
    for expert in range(state.num_experts):
        mean[expert] = 0.0
    for token in range(tokens):
        for expert in range(state.num_experts):
            mean[expert] += scores[token, expert] / tokens


@jitable
def next_score_of(state: State, token: int) -> float:
    """S_{k+1} of a token: its highest gate score outside the router's choice."""
    return float(next_score(state.scores[token, : state.num_experts], state.ids[token], state.token_ranks[token]))


@jitable
def share_of_weight(state: State, token: int, rank: int) -> float:
    """Weight of a rank over the sum of the token's ranks; gate scores stand in where the trace has no weights."""
    total, own = 0.0, 0.0
    for other in range(state.token_ranks[token]):
        weight = float(state.weights[token, other])
        if np.isnan(weight):
            weight = float(state.scores[token, state.ids[token, other]])
        total += weight
        if other == rank:
            own = weight
    return own / total if total > 0.0 else 0.0


@jitable
def logit_of(score: float) -> float:
    """The logit behind a gate score, up to a constant that all experts of the token share."""
    return float(np.log(max(float(score), SMALLEST_SCORE)))


@jitable
def rank_experts(scores: NDArray[np.float32], count: int, taken: Flags, ranked: NDArray[np.int32]) -> None:
    """Write the ``count`` experts with the highest of ``scores`` [E] to ``ranked``, best first, ties to the lower id.

    ``taken`` [E] is scratch.
    """
    taken[:] = False
    for place in range(count):
        best = -1
        for expert in range(scores.shape[0]):
            if not taken[expert] and (best < 0 or scores[expert] > scores[best]):
                best = expert
        ranked[place] = best
        taken[best] = True
