"""Everything predicted, most wanted first, over all layers: MoE-Infinity's rule."""

from dataclasses import dataclass

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.prefetches import fetch_by_weight, summed_scores
from policies.state import State


@dataclass(frozen=True)
class ByWeightAllLayers(Prefetch):
    """Fetch the missing experts of all predicted layers in order of predicted score, summed over the tokens.

    Experts with score 0 are left out, those on the way or present do not count. ``limit`` caps the number per layer
    step (0: none; the source has no cap). Weights should fall with distance, as ``activation_matrix`` makes them.
    Badly: without a limit it keeps the link busy without end and fills the cache with guesses about far layers.

    Source: MoE-Infinity, https://arxiv.org/abs/2401.14361; its code, memory/expert_prefetcher.py,
    https://github.com/EfficientMoE/MoE-Infinity.
    """

    limit: int = 0

    def __post_init__(self) -> None:
        require("policy.prefetch.limit", self.limit, 0, 1000000)

    def choose(self, state: State, memory: Vector) -> None:
        experts = state.num_experts
        weights = np.zeros(state.num_predicted * experts)
        for ahead in range(state.num_predicted):
            summed_scores(state, ahead, weights[ahead * experts : (ahead + 1) * experts])
        fetch_by_weight(state, weights, self.limit or weights.shape[0])
