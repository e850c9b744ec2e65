"""For substitution rules: who is resident, who is low-score, how a new choice is written down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import DECODE, DROPPED, RESIDENT, State
from traces.score_bands import Flags, best_within, is_top, next_score_beside

Values = NDArray[np.float32] | NDArray[np.float64]


@jitable
def left_alone(state: State, during_prefill: bool) -> bool:
    """Whether a rule passes this layer step by: a prefill step it was not asked to touch, or no expert to spare."""
    return bool((state.phase != DECODE and not during_prefill) or state.num_ranks >= state.num_experts)


@jitable
def all_resident(state: State) -> bool:
    """Whether the step's router asks for nothing but experts in GPU memory in full precision."""
    for token in range(state.num_tokens):
        for rank in range(state.token_ranks[token]):
            if state.status[state.layer, state.ids[token, rank]] != RESIDENT:
                return False
    return True


@jitable
def all_marked(state: State, token: int, marked: Flags) -> bool:
    """Whether ``marked`` [E] holds every expert that the router gave this token."""
    found = True
    for rank in range(state.token_ranks[token]):
        found = found and marked[state.ids[token, rank]] != 0
    return bool(found)


@jitable
def mark_resident(state: State, resident: Flags) -> None:
    """Set ``resident`` [E]: experts of the layer that are in GPU memory in full precision."""
    status, layer = state.status, state.layer
    for expert in range(state.num_experts):
        resident[expert] = status[layer, expert] == RESIDENT


@jitable
def best_resident(values: Values, lowest: float, resident: Flags, used: Flags) -> int:
    """The resident expert not yet ``used`` with the highest of ``values`` [E], ties to the lower id.

    -1 where none of them has at least ``lowest``.
    """
    best = -1
    for expert in range(values.shape[0]):
        free = values[expert] >= lowest and resident[expert] and not used[expert]
        if free and (best < 0 or values[expert] > values[best]):
            best = expert
    return best


@jitable
def mark_routed(state: State, token: int, used: Flags) -> None:
    """Set ``used`` [E]: experts that the router gave this token."""
    for expert in range(state.num_experts):
        used[expert] = 0
    for rank in range(state.token_ranks[token]):
        used[state.ids[token, rank]] = 1


@jitable
def is_low(state: State, token: int, rank: int, edge: float, alpha: float) -> bool:
    """Whether the expert routed at this rank is low-score: below (1 + alpha) * S_{k+1}, with ``edge`` = S_{k+1}."""
    return not is_top(state.scores[token, state.ids[token, rank]], edge, alpha)


@jitable
def substitute_in_band(state: State, alpha: float, include_next: bool, available: Flags, free: Flags) -> None:
    """SMoE's expert-cache router with the best substitute first; see ``policies.substitution.score_band``.

    ``available`` and ``free`` [E] are scratch.
    """
    edge = mark_available(state, alpha, available, free)
    for token in range(state.num_tokens):
        if all_marked(state, token, available):
            continue
        scores = state.scores[token, : state.num_experts]
        if state.num_tokens > 1:  # of a single token ``free`` and ``edge`` are known already
            mark_routed(state, token, free)
            edge = next_score_beside(scores, free)
        for expert in range(state.num_experts):
            free[expert] = (available[expert] != 0) & (free[expert] == 0)
        for rank in range(state.token_ranks[token]):
            if available[state.ids[token, rank]] == 0:
                best = best_within(scores, free, (1.0 - alpha) * edge, edge, include_next)
                if best >= 0:
                    free[best] = 0
                    state.executed_ids[token, rank] = best


@jitable
def mark_available(state: State, alpha: float, available: Flags, routed: Flags) -> float:
    """Set ``available`` [E]: resident, or a top-score expert of any token -> S_{k+1} of the last token looked at.

    ``routed`` [E] is scratch; it holds what the router gave that token. Where all is resident no token is looked at.
    """
    edge = 0.0
    mark_resident(state, available)
    for token in range(state.num_tokens):
        if all_marked(state, token, available):
            continue  # its top-score experts are known to be available
        mark_routed(state, token, routed)
        edge = next_score_beside(state.scores[token, : state.num_experts], routed)
        for rank in range(state.token_ranks[token]):
            if not is_low(state, token, rank, edge, alpha):
                available[state.ids[token, rank]] = 1
    return edge


@jitable
def write_choice(state: State, token: int, chosen: NDArray[np.int32], count: int) -> None:
    """Let a token execute the first ``count`` of ``chosen`` and nothing else.

    Routed experts that are among them keep their rank; the others take the ranks left over, in order; ranks for which
    nothing is left are DROPPED.
    """
    following = 0
    for rank in range(state.token_ranks[token]):
        routed = state.ids[token, rank]
        state.executed_ids[token, rank] = DROPPED
        for i in range(count):
            if chosen[i] == routed:
                state.executed_ids[token, rank] = routed
    for rank in range(state.token_ranks[token]):
        if state.executed_ids[token, rank] != DROPPED:
            continue
        while following < count and is_routed(state, token, chosen[following]):
            following += 1
        if following < count:
            state.executed_ids[token, rank] = chosen[following]
            following += 1


@jitable
def is_routed(state: State, token: int, expert: int) -> bool:
    """Whether the router gave this token this expert."""
    found = False
    for rank in range(state.token_ranks[token]):
        found = found or state.ids[token, rank] == expert
    return bool(found)


@jitable
def prefer_resident(
    ranked: NDArray[np.int32], window: int, keep: int, resident: Flags, chosen: NDArray[np.int32], count: int
) -> None:
    """Choose ``count`` of the ``window`` best: the ``keep`` best, then resident ones, then the rest, each in order.

    ``ranked`` [window], best first; ``count`` <= ``window``; writes ``chosen`` [count].
    """
    size = 0
    for turn in range(3):
        for place in range(window):
            first = place < keep
            wanted = first if turn == 0 else not first and resident[ranked[place]] == (turn == 1)
            if wanted and size < count:
                chosen[size] = ranked[place]
                size += 1
