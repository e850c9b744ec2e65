"""A trained perceptron for each layer predicts the experts of the layers to come from the current layer."""

from dataclasses import dataclass
from typing import ClassVar

from policies.prediction.trained import TrainedPrediction


@dataclass(frozen=True)
class PromoeMlp(TrainedPrediction):
    """Predict layer l + s by ProMoE's perceptron: sigmoid(W2 relu(W1 x_l)), one pair of weights for each (l, s).

    ``checkpoint`` is the file that ``python -m sim train-predictor predictor=promoe_mlp`` wrote. The original's x_l is
    the hidden state, which a trace does not hold: the gate scores of layer l stand in (where the trace has none, the
    weights of the chosen experts), beside the experts that the token before used in layer l + s. The time to run the
    network is not counted. Badly: in layer 0, of which nothing is known before it, and far ahead.

    Source: "ProMoE: Fast MoE-based LLM Serving using Proactive Caching", https://arxiv.org/abs/2410.22134.
    """

    kind: ClassVar[str] = "promoe_mlp"
