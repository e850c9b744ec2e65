"""A shadow model that runs ahead and is right with a stated probability."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Prediction, Vector, require
from policies.hashing import uniform
from policies.jitable import jitable
from policies.needs import Need
from policies.predictions import layers_left, write_routed
from policies.state import DECODE, DROPPED, State


@jitable
def err(state: State, recall: float, ahead: int, token: int, used: NDArray[np.uint8]) -> None:
    """Replace each expert of a true prediction by a wrong one with probability 1 - ``recall``; ``used``: scratch."""
    layer, step_start = state.layer + 1 + ahead, state.now - state.layer
    used[:] = 0
    wrong = state.num_experts
    for rank in range(state.num_ranks):
        expert = state.routed[token, layer, rank]
        if expert != DROPPED:
            used[expert] = 1
            wrong -= 1
    for rank in range(state.num_ranks):
        expert = state.routed[token, layer, rank]
        if expert == DROPPED:
            break
        place = layer * state.num_experts + expert
        if uniform(state.seed, step_start, place, 2 * token) < recall:
            continue
        state.predicted[ahead, token, expert] = 0.0
        if wrong > 0:
            other = nth_unused(used, int(uniform(state.seed, step_start, place, 2 * token + 1) * wrong))
            state.predicted[ahead, token, other] = 1.0
            used[other] = 1
            wrong -= 1


@jitable
def nth_unused(used: NDArray[np.uint8], nth: int) -> int:
    """The expert with exactly ``nth`` unused ones below it, itself unused."""
    left = nth
    for expert in range(used.shape[0]):
        if used[expert] == 0:
            if left == 0:
                return expert
            left -= 1
    return -1


@dataclass(frozen=True)
class Shadow(Prediction):
    """Predict each truly routed expert of the next ``layers`` layers with probability ``recall``, else a wrong one.

    For each token, layer and routed expert: kept with probability ``recall``, independently; otherwise replaced by an
    expert drawn evenly from those that the token does not use and that were not drawn for it yet (by none where there
    is no such expert). Score 1 each. The draw is a hash of seed, step, layer, expert and token: it does not change when
    the same layer is announced again. In OD-MoE a quantised copy of the model runs ahead of it; measured recall with
    token and KV aligned in each step: FP16 .9994, INT8 .9734, NF4 .9567.
    What this leaves out: the memory and time of the shadow model, and that errors of a real one come in runs; without
    alignment its recall falls with the length of the answer (INT8 to about .3 by token 256).
    Badly: recall holds per token; over a batch the union of the tokens' experts is found more often.

    Source: OD-MoE, recall and schedule of its shadow model (SEP), https://arxiv.org/abs/2512.03927.
    """

    recall: float = 0.9734
    layers: int = 3
    during_prefill: bool = False
    """Whether prompts are predicted too (OD-MoE does not)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.ORACLE})

    def __post_init__(self) -> None:
        require("policy.prediction.recall", self.recall, 0.0, 1.0)
        require("policy.prediction.layers", self.layers, 1, 1024)

    def depth(self, num_layers: int) -> int:
        return max(1, min(self.layers, num_layers - 1))

    def predict(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        state.num_predicted = layers_left(state, self.layers)
        used = np.zeros(state.num_experts, np.uint8)
        for ahead in range(state.num_predicted):
            for token in range(state.num_tokens):
                write_routed(state, ahead, token)
                err(state, self.recall, ahead, token, used)
