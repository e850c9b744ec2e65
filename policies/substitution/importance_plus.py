"""Replace missing experts while the gate mass that a replacement loses is small: our refinement of SMoE's bands."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.state import State
from policies.substitutes import all_resident, best_resident, left_alone, mark_resident, mark_routed


@dataclass(frozen=True)
class ImportancePlus(Substitution):
    """Replace missing experts, lowest score first, by the best free resident ones while s - s' <= ``loss`` * S.

    s is the gate score of the missing expert, s' that of its substitute, S the sum over the experts that the router
    chose: each replacement may lose a share ``loss`` of the token's gate mass. SMoE's bands hold both scores against
    S_{k+1} and cache-prior routing bounds their ratio; here the two are held against each other, and by difference,
    since an expert of small weight can be given up for one of much smaller weight at little cost. The ``keep`` best
    experts are always executed.
    Badly: gates of nearly equal scores, where the difference says little about which expert is useful.

    Source: rule of this project; compared with others by scripts/studies/quality/notions.py.
    """

    loss: float = 0.05
    keep: int = 1
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.loss", self.loss, 0.0, 1.0)
        require("policy.substitution.keep", self.keep, 0, 65535)

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill) or all_resident(state):
            return
        experts, keep = state.num_experts, self.keep
        resident = np.zeros(experts, np.bool_)
        mark_resident(state, resident)
        used = np.zeros(experts, np.bool_)
        for token in range(state.num_tokens):
            mark_routed(state, token, used)
            total = 0.0
            for rank in range(state.token_ranks[token]):
                total += float(state.scores[token, state.ids[token, rank]])
            for rank in range(state.token_ranks[token] - 1, keep - 1, -1):
                routed = state.ids[token, rank]
                if resident[routed]:
                    continue
                best = best_resident(state.scores[token, :experts], 0.0, resident, used)
                if best < 0:
                    break
                lost = float(state.scores[token, routed]) - float(state.scores[token, best])
                if lost > self.loss * total:
                    continue
                used[best] = True
                state.executed_ids[token, rank] = best
