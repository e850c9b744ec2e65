"""Replace every missing expert by the best-scored resident one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector
from policies.needs import Need
from policies.state import State
from policies.substitutes import best_resident, left_alone, mark_resident, mark_routed


@dataclass(frozen=True)
class ReplaceAllMissing(Substitution):
    """Replace every missing expert, whatever its score, by the resident expert with the highest gate score left.

    A bound, not a proposal: the fewest demand loads that substitution can reach, at the highest price in quality. What
    finds no free resident expert is supplied as usual. Badly: at low capacity top experts are replaced by noise.

    Source: control of this project.
    """

    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        resident = np.zeros(state.num_experts, np.bool_)
        mark_resident(state, resident)
        used = np.zeros(state.num_experts, np.bool_)
        for token in range(state.num_tokens):
            scores = state.scores[token, : state.num_experts]
            mark_routed(state, token, used)
            for rank in range(state.token_ranks[token]):
                if resident[state.ids[token, rank]]:
                    continue
                best = best_resident(scores, 0.0, resident, used)
                if best >= 0:
                    used[best] = True
                    state.executed_ids[token, rank] = best
