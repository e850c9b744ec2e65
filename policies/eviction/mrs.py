"""HybriMoE's minus-recent score."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Eviction, Vector, require
from policies.memory import given, layer_row
from policies.needs import Need
from policies.scores import mean_scores
from policies.state import State


@dataclass(frozen=True)
class Mrs(Eviction):
    """Evict the expert of the lowest S, with S <- alpha * TopP(s) + (1 - alpha) * S in every step of its layer.

    TopP keeps the p highest gate scores and sets the rest to 0. The scores of a step are the mean over its tokens; S
    starts at 0. The paper gives neither alpha nor p here: the defaults are the released code's (0.5, and p = 2 K).
    Badly: where experts ranked just below the top k are not the next to be used.

    Memory: S [L, E].

    Source: HybriMoE, section on score-aware caching (MRS), https://arxiv.org/abs/2504.05897; constants from
    ktransformers/operators/experts.py of its release.
    """

    alpha: float = 0.5
    kept: int | None = None
    """p: how many scores enter S; null: twice the experts per token."""

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.eviction.alpha", self.alpha, 0.0, 1.0)
        if self.kept is not None:
            require("policy.eviction.kept", self.kept, 1, 65536)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        averages = layer_row(state, memory, 0)
        kept = int(self.kept) if given(self.kept) else 2 * state.num_ranks
        left = np.zeros(state.num_experts)
        mean_scores(state, left)
        for expert in range(state.num_experts):
            averages[expert] *= 1.0 - self.alpha
        for _ in range(min(kept, state.num_experts)):
            best = 0
            for expert in range(state.num_experts):
                if left[expert] > left[best]:
                    best = expert
            averages[best] += self.alpha * max(left[best], 0.0)
            left[best] = -1.0
        for expert in range(state.num_experts):
            state.priority[state.layer, expert] = averages[expert]
