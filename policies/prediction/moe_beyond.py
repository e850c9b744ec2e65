"""A trained Transformer over the tokens of a request predicts the experts of the layers to come."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prediction, Vector, require
from policies.needs import Need
from policies.predictions import copy_lookahead
from policies.state import MAX_LOOKAHEAD, State


@dataclass(frozen=True)
class MoeBeyond(Prediction):
    """Predict layer l + 1 by MoE-Beyond's encoder: sigmoid(head(encoder([token, layer]))) for every expert.

    ``checkpoint`` is the file that ``python -m sim train-predictor predictor=moe_beyond`` wrote. The original reads the
    base model's own token embedding, which a trace does not hold: here it is learned from the token ids, and without
    those the experts that the token before used in the same layer stand in. ``causal=false`` is the published variant:
    its encoder sees the later tokens of the request, so it is an oracle and no runtime can have it. The time to run the
    network is not counted. Badly: on tokens and kinds of text that the training requests did not hold.

    Source: "MoE-Beyond: Learning-Based Expert Activation Prediction", https://arxiv.org/abs/2508.17137; that the
    encoder is not causal: its code, https://github.com/ngavhane/moe-beyond.
    """

    checkpoint: str = ""
    layers: int = 1
    """How many layers ahead to look: 1 to 3. What it says of a layer is the same from every distance."""
    causal: bool = True
    """Must be as the checkpoint was trained."""

    kind: ClassVar[str] = "moe_beyond"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FORECAST})

    def __post_init__(self) -> None:
        require("policy.prediction.layers", self.layers, 1, MAX_LOOKAHEAD)

    def all_needs(self) -> frozenset[Need]:
        return self.needs if self.causal else self.needs | {Need.ORACLE}

    def depth(self, num_layers: int) -> int:
        return self.layers

    def predict(self, state: State, memory: Vector) -> None:
        copy_lookahead(state, self.layers)
