"""What oracles write: the router's recorded choice in a later layer, as a prediction."""

from __future__ import annotations

from policies.jitable import jitable
from policies.state import State


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
        state.predicted[ahead, token, state.routed[token, state.layer + 1 + ahead, rank]] = 1.0
