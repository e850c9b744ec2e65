"""Only as much as the link can carry before the next layer begins."""

from dataclasses import dataclass

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.prefetches import best_of_rows, fetch, is_missing
from policies.state import State


@dataclass(frozen=True)
class Budgeted(Prefetch):
    """Fetch missing experts of the next layer, best first, while their copies fit into the time the link stands idle.

    Candidates: each token's ``count`` best predicted experts (0: the model's top k), the highest score, summed over
    the tokens, first. Fetched are the first n of them that are missing, n the largest number with
    n * load_ns <= ``share`` * window_ns; what is there already costs nothing. A share above 1 accepts late copies.
    Badly: the window is an expectation; in a replay without a clock it is 0, and nothing is fetched.

    Source: a rule of this project, after the observation that prefetched bytes pay where they overlap with computation
    (SMoE, Fig. 20, https://arxiv.org/abs/2508.18983).
    """

    share: float = 1.0
    count: int = 0

    def __post_init__(self) -> None:
        require("policy.prefetch.share", self.share, 0.0, 1000.0)
        require("policy.prefetch.count", self.count, 0, 65536)

    def choose(self, state: State, memory: Vector) -> None:
        if state.num_predicted == 0:
            return
        count = min(self.count or state.num_ranks, state.num_experts)
        total = np.zeros(state.num_experts)
        best_of_rows(state, 0, count, total)
        layer, left_ns = state.layer + 1, self.share * state.window_ns
        while True:
            best = int(np.argmax(total))
            if total[best] <= 0.0:
                return
            total[best] = 0.0
            if is_missing(state, layer, best):
                left_ns -= state.load_ns[layer]
            if left_ns < 0.0:
                return
            fetch(state, layer, best)
