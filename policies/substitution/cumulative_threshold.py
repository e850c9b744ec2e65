"""Prefer resident experts among those that hold most of a token's gate mass: cache-aware routing by probability."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.scores import rank_experts
from policies.state import State
from policies.substitutes import left_alone, mark_resident, prefer_resident, write_choice


@dataclass(frozen=True)
class CumulativeThreshold(Substitution):
    """As ``max_rank``, but the candidates are as many best experts as it takes to hold a share ``mass`` of the gate.

    At least the router's k. A token whose gate is sure of itself keeps its choice, a vague one is widened. The paper
    sweeps the threshold; the defaults of ``mass`` and ``keep`` are chosen here.
    Badly: with many experts and a flat gate the candidates soon are most of the layer.

    Source: Skliar et al., "Mixture of Cache-Conditional Experts", variant by cumulative probability,
    https://arxiv.org/abs/2412.00099.
    """

    mass: float = 0.7
    keep: int = 2
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.mass", self.mass, 0.0, 1.0)
        require("policy.substitution.keep", self.keep, 0, 65535)

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        resident = np.zeros(state.num_experts, np.bool_)
        mark_resident(state, resident)
        taken = np.zeros(state.num_experts, np.bool_)
        ranked = np.zeros(state.num_experts, np.int32)
        chosen = np.zeros(state.num_ranks, np.int32)
        for token in range(state.num_tokens):
            scores, count = state.scores[token, : state.num_experts], state.token_ranks[token]
            rank_experts(scores, state.num_experts, taken, ranked)
            window, held = 0, 0.0
            while window < state.num_experts and (window < count or held < self.mass):
                held += float(scores[ranked[window]])
                window += 1
            prefer_resident(ranked, window, self.keep, resident, chosen, count)
            write_choice(state, token, chosen, count)
