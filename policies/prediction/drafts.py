"""The experts of drafted tokens, known before the step that verifies them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Prediction, Vector, require
from policies.needs import Need
from policies.prediction.shadow import err
from policies.predictions import layers_left, write_routed
from policies.state import DECODE, State


@dataclass(frozen=True)
class Drafts(Prediction):
    """Predict the experts of all rows of a step that verifies drafts, for the next ``layers`` layers at once.

    Once drafts exist, the tokens of the step are known and with them, up to errors of whatever maps tokens or a draft's
    hidden states to experts, what every layer will route to. Each truly routed expert is predicted with probability
    ``fidelity``, else one drawn evenly from those that the row does not use (as ``shadow`` draws; a hash of seed, step,
    layer, expert and row). Score 1 each. Nothing is predicted in a step without drafts.
    ``while_drafting``: it is known as soon as the draft begins, so that copies, of the first layer's experts too, run
    while it is at work; else from the first layer's lookup on. Both together with ``policy/prefetch=layers_ahead``, the
    rule that can choose ahead of a step.
    What this leaves out: that the experts of the second, third, ... draft are known only after the passes before it;
    SP-MoE's cutoff layer, beyond which it fetches nothing (``layers`` bounds that by hand), and its batched copies;
    what predicts takes no time; at fidelity 1 it is an oracle.
    Badly: with a small cache what far layers will want evicts what near ones still use.

    Source: SP-MoE, speculative expert prefetching, https://arxiv.org/abs/2510.10302.
    """

    fidelity: float = 0.9
    layers: int = 1024
    """How many layers ahead; 1024 stands for all."""
    while_drafting: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.ORACLE, Need.DRAFTS})

    def __post_init__(self) -> None:
        require("policy.prediction.fidelity", self.fidelity, 0.0, 1.0)
        require("policy.prediction.layers", self.layers, 1, 1024)

    def depth(self, num_layers: int) -> int:
        return max(1, min(self.layers, num_layers - (not self.while_drafting)))

    def foresees(self) -> bool:
        return self.while_drafting

    def predict(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE or state.num_tokens == state.num_requests:
            return
        state.num_predicted = layers_left(state, self.layers)
        used = np.zeros(state.num_experts, np.uint8)
        for ahead in range(state.num_predicted):
            for token in range(state.num_tokens):
                write_routed(state, ahead, token)
                err(state, self.fidelity, ahead, token, used)
