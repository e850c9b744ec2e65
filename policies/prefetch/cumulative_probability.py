"""As many experts of each predicted layer as the trust in the prediction asks for: FineMoE's rule."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.base import Prefetch, Vector, require
from policies.jitable import jitable
from policies.memory import given
from policies.prefetches import Scores, fetch_by_weight
from policies.state import State


@dataclass(frozen=True)
class CumulativeProbability(Prefetch):
    """From each predicted layer fetch the best experts while their probabilities sum to at most 1 - similarity.

    At least ``at_least`` per token (0: the model's top k), never one of probability 0. The less a prediction resembles
    what it came from, the more is fetched. The similarity s of a row is ``similarity``, or with null the sum of its
    scores: ``expert_map`` writes probabilities times s. Rows of other predictions that sum to 1 or more have s = 1.
    Order: probability * (1 - (l - first) / (L + 1)), highest first, where ``first`` is the first layer predicted this
    time and the highest value of any token counts. What is there already is left out.
    Badly: with low similarity it fetches nearly whole layers, whatever the link can carry.

    Source: FineMoE, https://arxiv.org/abs/2502.05370; order and limits in its code, class ExpertMapMatcher,
    https://github.com/IntelliSys-Lab/FineMoE-EuroSys26, finemoe/runtime/model_offload.py.
    """

    similarity: float | None = None
    at_least: int = 0

    def __post_init__(self) -> None:
        if self.similarity is not None:
            require("policy.prefetch.similarity", self.similarity, 0.0, 1.0)
        require("policy.prefetch.at_least", self.at_least, 0, 65536)

    def choose(self, state: State, memory: Vector) -> None:
        experts, first = state.num_experts, -1
        least = self.at_least or state.num_ranks
        priorities = np.zeros(state.num_predicted * experts)
        for ahead in range(state.num_predicted):
            found = priorities[ahead * experts : (ahead + 1) * experts]
            for row in range(state.num_predicted_tokens):
                choose_of_row(state.predicted[ahead, row, :experts], self.similarity, least, found)
            if first < 0 and found.max() > 0.0:
                first = ahead
            found *= 1.0 - (ahead - first) / (state.num_layers + 1)
        fetch_by_weight(state, priorities, priorities.shape[0])


@jitable
def choose_of_row(scores: NDArray[np.float32], similarity: float | None, least: int, found: Scores) -> None:
    """Raise ``found`` [E] to the probabilities of the experts that one row of predicted ``scores`` [E] asks for."""
    total = 0.0
    for expert in range(scores.shape[0]):
        total += scores[expert]
    allowed = 1.0 - (similarity if given(similarity) else min(total, 1.0))
    order, reached = np.argsort(-scores, kind="mergesort"), 0.0
    for rank in range(order.shape[0]):
        expert = order[rank]
        if scores[expert] <= 0.0:
            return
        probability = scores[expert] / total
        reached += probability
        if rank >= least and reached > allowed:
            return
        found[expert] = max(found[expert], probability)
