"""For prediction rules: ways to write a prediction, from early gates, the router's recorded choice, or counts.

Counts are cells of a rule's memory: [tokens counted, how many of them used each expert (E)].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import DROPPED, State


@jitable
def count_token(state: State, memory: NDArray[np.float64], row: int, token: int) -> None:
    """Count one token of the current layer in the counts that begin at ``memory[row]``."""
    memory[row] += 1
    for rank in range(state.token_ranks[token]):
        memory[row + 1 + state.ids[token, rank]] += 1


@jitable
def write_shares(state: State, ahead: int, memory: NDArray[np.float64], row: int) -> bool:
    """Predict for the whole step each expert's share of the tokens counted at ``row``; False if none were counted."""
    if memory[row] == 0.0:
        return False
    state.num_predicted, state.num_predicted_tokens = ahead + 1, 1
    for expert in range(state.num_experts):
        state.predicted[ahead, 0, expert] = memory[row + 1 + expert] / memory[row]
    return True


@jitable
def layers_left(state: State, layers: int) -> int:
    """How many of the next ``layers`` layers the model still has."""
    return min(layers, state.num_layers - 1 - state.layer)


@jitable
def write_routed(state: State, ahead: int, token: int) -> None:
    """Predict for a token of layer + 1 + ``ahead`` what its router will choose: score 1 for those, 0 for the others."""
    for expert in range(state.num_experts):
        state.predicted[ahead, token, expert] = 0.0
    for rank in range(state.num_ranks):
        expert = state.routed[token, state.layer + 1 + ahead, rank]
        if expert != DROPPED:
            state.predicted[ahead, token, expert] = 1.0


@jitable
def copy_lookahead(state: State, layers: int) -> None:
    """Predict the scores of ``state.lookahead``, at most ``layers`` layers ahead."""
    predicted, lookahead = state.predicted, state.lookahead
    state.num_predicted = min(layers, state.num_lookahead)
    for ahead in range(state.num_predicted):
        for token in range(state.num_tokens):
            for expert in range(state.num_experts):
                predicted[ahead, token, expert] = lookahead[ahead, token, expert]
