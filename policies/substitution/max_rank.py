"""Prefer resident experts among a token's best: cache-aware routing by rank."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.scores import rank_experts
from policies.state import State
from policies.substitutes import left_alone, mark_resident, prefer_resident, write_choice


@dataclass(frozen=True)
class MaxRank(Substitution):
    """Of a token's ``max_rank`` best experts execute its ``keep`` best, then resident ones, then the others, k in all.

    Each group goes by gate score. ``max_rank`` counts at least k. The paper sweeps it as a trade of quality for misses;
    the defaults of ``max_rank`` (M) and ``keep`` (J) are chosen here.
    Badly: ranks say nothing of how far the scores lie apart, so a clear choice is widened as much as a vague one.

    Source: Skliar et al., "Mixture of Cache-Conditional Experts", variant by maximal rank,
    https://arxiv.org/abs/2412.00099.
    """

    max_rank: int = 12
    keep: int = 2
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.max_rank", self.max_rank, 1, 65535)
        require("policy.substitution.keep", self.keep, 0, 65535)

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        window = min(max(self.max_rank, state.num_ranks), state.num_experts)
        resident = np.zeros(state.num_experts, np.bool_)
        mark_resident(state, resident)
        taken = np.zeros(state.num_experts, np.bool_)
        ranked = np.zeros(window, np.int32)
        chosen = np.zeros(state.num_ranks, np.int32)
        for token in range(state.num_tokens):
            count = state.token_ranks[token]
            rank_experts(state.scores[token, : state.num_experts], window, taken, ranked)
            prefer_resident(ranked, window, self.keep, resident, chosen, count)
            write_choice(state, token, chosen, count)
