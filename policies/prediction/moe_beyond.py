"""A trained Transformer over the tokens of a request predicts the experts of the layers to come."""

from dataclasses import dataclass
from typing import ClassVar

from policies.needs import Need
from policies.prediction.trained import TrainedPrediction


@dataclass(frozen=True)
class MoeBeyond(TrainedPrediction):
    """Predict layer l + 1 by MoE-Beyond's encoder: sigmoid(head(encoder([token, layer]))) for every expert.

    ``checkpoint`` is the file that ``python -m sim train-predictor predictor=moe_beyond`` wrote. The original reads the
    base model's own token embedding, which a trace does not hold: here it is learned from the token ids, and without
    those the experts that the token before used in the same layer stand in. ``causal=false`` is the published variant:
    its encoder sees the later tokens of the request, so it is an oracle and no runtime can have it. The time to run the
    network is not counted. What it says of a layer is the same from every distance.
    Badly: on tokens and kinds of text that the training requests did not hold.

    Source: "MoE-Beyond: Learning-Based Expert Activation Prediction", https://arxiv.org/abs/2508.17137; that the
    encoder is not causal: its code, https://github.com/ngavhane/moe-beyond.
    """

    causal: bool = True
    """Must be as the checkpoint was trained."""

    kind: ClassVar[str] = "moe_beyond"

    def all_needs(self) -> frozenset[Need]:
        return self.needs if self.causal else self.needs | {Need.ORACLE}

    def is_causal(self) -> bool:
        return self.causal
