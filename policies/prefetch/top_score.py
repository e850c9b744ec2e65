"""Prefetch only what the next layer will need most: SMoE's top-score rule."""

from dataclasses import dataclass

import numpy as np

from policies.bands import is_top, next_score, top_experts
from policies.base import Prefetch, Vector, require
from policies.state import State


@dataclass(frozen=True)
class TopScore(Prefetch):
    """Fetch the predicted top-score experts of the next layer, highest predicted score first.

    Top-score: among the predicted top k, score >= (1 + alpha) * S_{k+1}. Predicted low-score experts are left out: they
    can be substituted if they are missed. ``limit`` caps the number per layer step (0: no cap; the paper has none).
    Badly: on a link that demand already keeps busy, early bytes only queue.

    Source: SMoE, criteria C4 and C5, https://arxiv.org/abs/2508.18983.
    """

    alpha: float = 0.35
    limit: int = 0

    def __post_init__(self) -> None:
        require("policy.prefetch.alpha", self.alpha, 0.0, 1.0)
        require("policy.prefetch.limit", self.limit, 0, 65536)

    @staticmethod
    def choose(state: State, knobs: Vector, memory: Vector) -> None:
        if state.num_predicted == 0:
            return
        wanted = np.zeros(state.num_experts, np.float32)
        top = np.zeros(state.num_ranks, np.int32)
        for token in range(state.num_tokens):
            scores = state.predicted[0, token, : state.num_experts]
            top_experts(scores, state.num_ranks, top)
            edge = next_score(scores, top, state.num_ranks)
            for rank in range(state.num_ranks):
                expert = top[rank]
                if is_top(scores[expert], edge, knobs[0]) and scores[expert] > wanted[expert]:
                    wanted[expert] = scores[expert]
        limit = state.num_experts if knobs[1] == 0.0 else int(knobs[1])
        while state.num_prefetch < limit:
            best = 0
            for expert in range(state.num_experts):
                if wanted[expert] > wanted[best]:
                    best = expert
            if wanted[best] <= 0.0:
                return
            wanted[best] = 0.0
            state.prefetch_layer[state.num_prefetch] = state.layer + 1
            state.prefetch_expert[state.num_prefetch] = best
            state.num_prefetch += 1
