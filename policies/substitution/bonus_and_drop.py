"""Favour resident experts by their expected reuse, then drop the lower ranks that are missing: CECAR."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.memory import given, layer_row
from policies.needs import Need
from policies.scores import logit_of, rank_experts
from policies.state import DROPPED, State
from policies.substitutes import left_alone, mark_resident, write_choice


@dataclass(frozen=True)
class BonusAndDrop(Substitution):
    """Execute the top k by z_e + d * a_e * 1[e resident], of which the missing ones beyond ``keep`` are dropped.

    z are the router's logits (up to a constant), d the gap between the token's best and k-th logit, a_e = 1 - predicted
    reuse distance of e over the largest among the resident experts. CECAR predicts that distance with a small trained
    network; here the layer steps since the expert was last executed stand in for it, a recency estimate that needs no
    training. ``constant`` sets a_e to one number instead, as the released code offers with 0.4858. ``keep`` is the
    code's ``topk_threshold``.
    Badly: dropped mass is lost, and the stand-in knows nothing of reuse that is not recent.

    Memory: [L, E] ``now`` of each expert's last execution.

    Source: CECAR, simulation_deepseek.py, https://github.com/malmong/CECAR.
    """

    keep: int = 3
    constant: float | None = None

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.keep", self.keep, 1, 65535)
        if self.constant is not None:
            require("policy.substitution.constant", self.constant, 0.0, 1.0)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def substitute(self, state: State, memory: Vector) -> None:
        experts = state.num_experts
        last_use = layer_row(state, memory, 0)
        if not left_alone(state, False):
            resident = np.zeros(experts, np.bool_)
            mark_resident(state, resident)
            oldest = 1.0
            for expert in range(experts):
                if resident[expert]:
                    oldest = max(oldest, state.now - last_use[expert])
            taken = np.zeros(experts, np.bool_)
            logits = np.zeros(experts, np.float32)
            chosen = np.zeros(state.num_ranks, np.int32)
            for token in range(state.num_tokens):
                count = state.token_ranks[token]
                if count == 0:
                    continue
                for expert in range(experts):
                    logits[expert] = logit_of(state.scores[token, expert])
                rank_experts(logits, count, taken, chosen)
                gap = logits[chosen[0]] - logits[chosen[count - 1]]
                for expert in range(experts):
                    if resident[expert]:
                        age = (state.now - last_use[expert]) / oldest
                        logits[expert] += gap * (self.constant if given(self.constant) else 1.0 - age)
                rank_experts(logits, count, taken, chosen)
                kept = 0
                for rank in range(count):
                    if rank < self.keep or resident[chosen[rank]]:
                        chosen[kept] = chosen[rank]
                        kept += 1
                write_choice(state, token, chosen, kept)
        for token in range(state.num_tokens):
            for rank in range(state.token_ranks[token]):
                if state.executed_ids[token, rank] != DROPPED:
                    last_use[state.executed_ids[token, rank]] = state.now
