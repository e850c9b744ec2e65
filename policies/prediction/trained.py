"""What predictions by a trained network share."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prediction, Vector, require
from policies.needs import Need
from policies.predictions import copy_lookahead
from policies.state import MAX_LOOKAHEAD, State


@dataclass(frozen=True)
class TrainedPrediction(Prediction):
    """Predict what the network of a checkpoint forecasts: the engine writes its scores to ``state.lookahead``.

    Source: of the network, see the rules built on it, ``moe_beyond`` and ``promoe_mlp``.
    """

    checkpoint: str = "embedded"
    """The file that ``python -m sim train-predictor`` wrote; ``embedded``: the package's, for the embedded trace."""
    layers: int = 1
    """How many layers ahead to look: 1 to 3, as far as the network was trained to."""

    kind: ClassVar[str]
    """Of network, as the checkpoint states it."""
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FORECAST})

    def __post_init__(self) -> None:
        require("policy.prediction.layers", self.layers, 1, MAX_LOOKAHEAD)

    def depth(self, num_layers: int) -> int:
        return self.layers

    def is_causal(self) -> bool:
        """Whether the network sees nothing of later tokens."""
        return True

    def predict(self, state: State, memory: Vector) -> None:
        copy_lookahead(state, self.layers)
