"""Drop the missing experts that SMoE would replace."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.state import DROPPED, State
from policies.substitutes import left_alone, substitute_in_band


@dataclass(frozen=True)
class Skip(Substitution):
    """Execute nothing where ``score_band`` would execute a substitute: the quality baseline of the SMoE paper.

    With ``without_substitute`` a missing low-score expert (s < (1 + alpha) * S_{k+1}, and top-score for no token of the
    batch) is dropped even where no substitute stands ready, which saves every low-score load. A token that would lose
    all of its experts keeps the best. SMoE names its baseline after the expert skipping of Lu et al., whose own rule
    compares the weights of a token's two experts, whatever is resident.
    Badly: a dropped expert's share of the output is lost, while a substitute restores part of it.

    Source: SMoE, quality baselines of the evaluation, https://arxiv.org/abs/2508.18983; Lu et al., "Not All Experts are
    Equal", https://arxiv.org/abs/2402.14800.
    """

    alpha: float = 0.35
    include_next: bool = True
    """Whether rank k + 1 counts as a substitute, as in ``score_band``."""
    without_substitute: bool = False
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.alpha", self.alpha, 0.0, 1.0)

    def band(self) -> float:
        return self.alpha

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        available = np.zeros(state.num_experts, np.bool_)
        substitute_in_band(state, self.alpha, self.include_next, available, np.zeros(state.num_experts, np.bool_))
        for token in range(state.num_tokens):
            kept = 0
            for rank in range(state.token_ranks[token]):
                routed = state.ids[token, rank]
                low_miss = self.without_substitute and not available[routed]
                if low_miss or state.executed_ids[token, rank] != routed:
                    state.executed_ids[token, rank] = DROPPED
                else:
                    kept += 1
            if kept == 0:
                state.executed_ids[token, 0] = state.ids[token, 0]
