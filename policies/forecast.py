"""Helper of the rules that predict by scores which the engine hands them: early gates and trained networks."""

from __future__ import annotations

from policies.jitable import jitable
from policies.state import State


@jitable
def copy_lookahead(state: State, layers: int) -> None:
    """Predict the scores of ``state.lookahead``, at most ``layers`` layers ahead."""
    predicted, lookahead = state.predicted, state.lookahead
    state.num_predicted = min(layers, state.num_lookahead)
    for ahead in range(state.num_predicted):
        for token in range(state.num_tokens):
            for expert in range(state.num_experts):
                predicted[ahead, token, expert] = lookahead[ahead, token, expert]
