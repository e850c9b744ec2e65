"""The exact experts of the next layer, as a gate trained to choose them one layer early would know them."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prediction, Vector
from policies.needs import Need
from policies.predictions import layers_left, write_routed
from policies.state import State


@dataclass(frozen=True)
class PreGated(Prediction):
    """Predict exactly the experts of layer l + 1 at layer l: score 1 for each token's routed experts.

    Pre-gated MoE moves the choice of block N + 1 into block N and fine-tunes the model to it, so that the choice is
    known one layer early and never wrong. The recorded choice stands in for that trained gate: a model that was
    fine-tuned so would route somewhat differently, and what the change costs in quality is not seen here.
    Badly: for any model that was not fine-tuned to it this is an oracle.

    Source: "Pre-gated MoE", https://arxiv.org/abs/2308.12066.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.ORACLE})

    def predict(self, state: State, memory: Vector) -> None:
        state.num_predicted = layers_left(state, 1)
        if state.num_predicted > 0:
            for token in range(state.num_tokens):
                write_routed(state, 0, token)
