"""The experts that the next layers will really use."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prediction, Vector, require
from policies.needs import Need
from policies.predictions import layers_left, write_routed
from policies.state import State


@dataclass(frozen=True)
class Oracle(Prediction):
    """Predict the routed experts of the next ``layers`` layers with score 1, everything else with 0.

    A bound on what any prediction can give a prefetch rule; no rule for a live system. It knows what the router
    chooses, not what a substitution rule will make of it.

    Source: the trace itself.
    """

    layers: int = 1

    needs: ClassVar[frozenset[Need]] = frozenset({Need.ORACLE})

    def __post_init__(self) -> None:
        require("policy.prediction.layers", self.layers, 1, 1024)

    def depth(self, num_layers: int) -> int:
        return max(1, min(self.layers, num_layers - 1))

    def predict(self, state: State, memory: Vector) -> None:
        state.num_predicted = layers_left(state, self.layers)
        for ahead in range(state.num_predicted):
            for token in range(state.num_tokens):
                write_routed(state, ahead, token)
