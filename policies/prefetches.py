"""For prefetch rules: a prediction's scores by expert, its best experts, and the list of what to fetch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import IN_FLIGHT, RESIDENT, State
from traces.score_bands import ABOVE_ALL, BELOW_ALL, best_key_below, expert_of, is_top, key_of, top_experts

Scores = NDArray[np.float64]


@jitable
def is_missing(state: State, layer: int, expert: int) -> bool:
    """Whether an expert is neither resident in full precision nor on the link; one that only waits is missing."""
    status = state.status[layer, expert]
    return bool(status != RESIDENT and status != IN_FLIGHT)


@jitable
def fetch(state: State, layer: int, expert: int) -> None:
    """Put an expert at the end of the list of what to fetch."""
    state.prefetch_layer[state.num_prefetch] = layer
    state.prefetch_expert[state.num_prefetch] = expert
    state.num_prefetch += 1


@jitable
def is_chosen(state: State, expert: int) -> bool:
    """Whether an expert of any layer with this id is in the list of what to fetch."""
    found = False
    for i in range(state.num_prefetch):
        found = found or state.prefetch_expert[i] == expert
    return bool(found)


@jitable
def summed_scores(state: State, ahead: int, total: Scores) -> None:
    """Write the predicted scores of layer + 1 + ``ahead``, summed over the rows of the prediction, to ``total`` [E]."""
    predicted = state.predicted
    for expert in range(state.num_experts):
        total[expert] = 0.0
    for row in range(state.num_predicted_tokens):
        for expert in range(state.num_experts):
            total[expert] += predicted[ahead, row, expert]


@jitable
def best_of_rows(state: State, ahead: int, count: int, total: Scores) -> None:
    """As ``summed_scores``, with 0 for experts that are in no row among its ``count`` best."""
    chosen = np.zeros(state.num_experts, np.uint8)
    best = np.zeros(count, np.int32)
    for row in range(state.num_predicted_tokens):
        scores = state.predicted[ahead, row, : state.num_experts]
        top_experts(scores, count, best)
        for rank in range(count):
            if scores[best[rank]] > 0.0:
                chosen[best[rank]] = 1
    summed_scores(state, ahead, total)
    for expert in range(state.num_experts):
        if chosen[expert] == 0:
            total[expert] = 0.0


@jitable
def top_scores(state: State, alpha: float, wanted: Scores) -> None:
    """Write the highest score of each predicted top-score expert of the next layer to ``wanted`` [E], 0 for the others.

    Top-score in a row: among its top k, and score >= (1 + alpha) * S_{k+1}.
    """
    for expert in range(state.num_experts):
        wanted[expert] = 0.0
    for row in range(state.num_predicted_tokens):
        scores = state.predicted[0, row, : state.num_experts]
        last = ABOVE_ALL
        for _ in range(state.num_ranks + 1):
            last = best_key_below(scores, last)
        edge = score_of(scores, last)
        for expert in range(state.num_experts):
            score = scores[expert]
            top = (key_of(score, expert) > last) & is_top(score, edge, alpha)
            wanted[expert] = max(wanted[expert], score if top else 0.0)


@jitable
def score_of(scores: NDArray[np.float32], key: int) -> float:
    """The score of a key; 0 for the key of nobody."""
    return 0.0 if key == BELOW_ALL else max(float(scores[expert_of(key)]), 0.0)


@jitable
def fetch_top_scores(state: State, alpha: float, limit: int) -> None:
    """Fetch the ``limit`` best of the top-score experts (see ``top_scores``) of a prediction of one row."""
    scores, key = state.predicted[0, 0, : state.num_experts], ABOVE_ALL
    for _ in range(state.num_ranks):
        key = best_key_below(scores, key)
        fetch(state, state.layer + 1, expert_of(key))
    edge = score_of(scores, best_key_below(scores, key))
    while state.num_prefetch > 0:
        score = scores[state.prefetch_expert[state.num_prefetch - 1]]
        if state.num_prefetch <= limit and score > 0.0 and is_top(score, edge, alpha):
            return
        state.num_prefetch -= 1


@jitable
def fetch_best(state: State, ahead: int, scores: Scores, limit: int) -> None:
    """Fetch the ``limit`` experts of layer + 1 + ``ahead`` with the highest ``scores`` [E] above 0.

    Ties go to the lower id. What is fetched gets the score 0.
    """
    candidates = 0
    for expert in range(state.num_experts):
        candidates += scores[expert] > 0.0
    for _ in range(min(limit, candidates)):
        best = 0
        for expert in range(state.num_experts):
            if scores[expert] > scores[best]:
                best = expert
        scores[best] = 0.0
        fetch(state, state.layer + 1 + ahead, best)


@jitable
def fetch_by_weight(state: State, weights: Scores, limit: int) -> None:
    """Fetch what is missing in order of falling weight, at most ``limit``; ties to the nearer layer, then the lower id.

    ``weights`` [num_predicted * E], one layer ahead after the other; what has no positive weight is left out.
    """
    order = np.argsort(-weights, kind="mergesort")
    for i in range(order.shape[0]):
        if weights[order[i]] <= 0.0 or state.num_prefetch >= limit:
            return
        layer, expert = state.layer + 1 + order[i] // state.num_experts, order[i] % state.num_experts
        if is_missing(state, layer, expert):
            fetch(state, layer, expert)
