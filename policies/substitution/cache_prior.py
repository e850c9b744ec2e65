"""Rank experts with a bonus for resident ones: cache-prior routing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.scores import logit_of, rank_experts
from policies.state import State
from policies.substitutes import left_alone, mark_resident, write_choice


@dataclass(frozen=True)
class CachePrior(Substitution):
    """Execute the top k by z_e + bonus * D * 1[e resident, or among the token's own ``keep`` best].

    z are the router's logits (up to a constant: logarithms of the gate scores); D is the mean of max(z) - min(z) over
    the layer's tokens so far, this one included. ``decay`` 0: the plain mean; above 0: D <- decay * D + (1 - decay) *
    range, as CECAR re-implements it with 0.99. ``bonus`` (lambda) and ``keep`` (J) are CECAR's values for this rule;
    the paper tunes lambda as a trade of quality for misses. Every token's resident experts of the router's choice stay.
    Badly: a router that chooses by other scores than its gate's (a bias, groups of experts) is re-ranked by the gate's
    alone; at small capacity the same few experts feed on their own bonus.

    Memory per layer: [0] tokens seen, [1] D.

    Source: Skliar et al., "Mixture of Cache-Conditional Experts", https://arxiv.org/abs/2412.00099; values: CECAR,
    simulation_deepseek.py, https://github.com/malmong/CECAR.
    """

    bonus: float = 0.2
    keep: int = 2
    decay: float = 0.0
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.bonus", self.bonus, 0.0, 1.0)
        require("policy.substitution.keep", self.keep, 0, 65535)
        require("policy.substitution.decay", self.decay, 0.0, 1.0)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 2 * num_layers

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        experts, at = state.num_experts, 2 * state.layer
        keep = min(self.keep, experts)
        resident = np.zeros(experts, np.bool_)
        mark_resident(state, resident)
        taken = np.zeros(experts, np.bool_)
        logits = np.zeros(experts, np.float32)
        chosen = np.zeros(max(keep, state.num_ranks), np.int32)
        for token in range(state.num_tokens):
            for expert in range(experts):
                logits[expert] = logit_of(state.scores[token, expert])
            spread = float(logits.max() - logits.min())
            memory[at] += 1.0
            share = 1.0 / memory[at]
            if self.decay > 0.0 and memory[at] > 1.0:
                share = 1.0 - self.decay
            memory[at + 1] += share * (spread - memory[at + 1])
            rank_experts(logits, keep, taken, chosen)  # leaves in ``taken`` the token's own best
            for expert in range(experts):
                if resident[expert] or taken[expert]:
                    logits[expert] += self.bonus * memory[at + 1]
            rank_experts(logits, state.token_ranks[token], taken, chosen)
            write_choice(state, token, chosen, state.token_ranks[token])
