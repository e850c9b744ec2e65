"""At most so many distinct experts per layer step: those that weigh most over all of its tokens."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.state import DECODE, DROPPED, State


@dataclass(frozen=True)
class ExpertBudget(Substitution):
    """Execute only the ``budget`` experts with the greatest gate mass over the step's tokens; drop the others.

    The mass of an expert is the sum of its gate scores over the tokens that were routed to it. A token that would lose
    all of its experts keeps its best, beyond the budget. Where the step asks for no more than ``budget`` experts it is
    left alone: a step of one token is, while ``budget`` is at least the router's k.
    `python -m sim quality step_tokens=1+N` measures what it costs.
    Badly: the mass that is dropped is lost for good, and it is that of tokens whose experts nobody else wants.

    Source: MoE-Spec, expert budgeting of the verifying step, https://arxiv.org/abs/2602.16052; which of its ways to
    treat what lies beyond the budget: truncation.
    """

    budget: int = 12
    """Distinct experts of a layer step."""
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES, Need.DRAFTS})

    def __post_init__(self) -> None:
        require("policy.substitution.budget", self.budget, 1, 65536)

    def substitute(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        mass, distinct = np.full(state.num_experts, -1.0), 0
        for token in range(state.num_tokens):
            for rank in range(state.token_ranks[token]):
                expert = state.ids[token, rank]
                if mass[expert] < 0.0:
                    mass[expert] = 0.0
                    distinct += 1
                mass[expert] += state.scores[token, expert]
        if distinct <= self.budget:
            return
        kept = np.zeros(state.num_experts, np.bool_)
        for _ in range(self.budget):
            best = int(np.argmax(mass))
            kept[best] = True
            mass[best] = -1.0
        for token in range(state.num_tokens):
            left = 0
            for rank in range(state.token_ranks[token]):
                if kept[state.ids[token, rank]]:
                    left += 1
                else:
                    state.executed_ids[token, rank] = DROPPED
            if left == 0 and state.token_ranks[token] > 0:
                state.executed_ids[token, 0] = state.ids[token, 0]
