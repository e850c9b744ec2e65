"""Counts of which experts tokens used, in a rule's memory: [tokens counted, how many of them used each expert (E)]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import State


@jitable
def count_token(state: State, memory: NDArray[np.float64], row: int, token: int) -> None:
    """Count one token of the current layer in the counts that begin at ``memory[row]``."""
    memory[row] += 1
    for rank in range(state.num_ranks):
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
