"""At most one expert, and only after a miss: the prefetch that SMoE's released code does."""

from dataclasses import dataclass

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.prefetches import fetch_best, is_missing, top_scores
from policies.state import State


@dataclass(frozen=True)
class SmoeCode(Prefetch):
    """If the current layer missed something, fetch one missing predicted top-score expert of the next layer.

    Top-score as in ``top_score``. Of several missing ones the highest predicted score is taken; which one the code
    takes is not established. The code does so at the end of the layer, so that only the next layer's attention overlaps
    the copy: combine with a prediction that exists only then (``policy.prediction.variant=after``). Its predictor, the
    residual with the shared experts' output but without next attention and routed experts, is in no trace.
    A copy that has begun is not undone, one that waits is dropped when the next layer begins; the engine does so too.
    Badly: layers that hit everything prefetch nothing, although their link is idle.

    Source: github goingshr/SMoE, SMoE_base.py and qwen_moe.py; the paper's rule is ``top_score``.
    """

    alpha: float = 0.25
    """Edge of the band; the shipped configurations of the code say 0.25 for every model."""

    def __post_init__(self) -> None:
        require("policy.prefetch.alpha", self.alpha, 0.0, 1.0)

    def choose(self, state: State, memory: Vector) -> None:
        if state.num_predicted == 0 or state.num_missing == 0:
            return
        wanted = np.zeros(state.num_experts)
        top_scores(state, self.alpha, wanted)
        for expert in range(state.num_experts):
            if not is_missing(state, state.layer + 1, expert):
                wanted[expert] = 0.0
        fetch_best(state, 0, wanted, 1)
