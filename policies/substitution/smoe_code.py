"""Low-score missing experts replaced as SMoE's released code does it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.state import State
from policies.substitutes import left_alone, mark_available, mark_routed
from traces.score_bands import next_score_beside


@dataclass(frozen=True)
class SmoeCode(Substitution):
    """Replace a missing low-score expert by the first available expert strictly inside the band below S_{k+1}.

    With S = S_{k+1}: low-score active experts are those with s < (1 + alpha) * S; substitutes those with
    (1 - alpha) * S < s < S that are resident or top-score for any token. Both edges are strict, so the (k+1)-th expert
    itself never substitutes. Low-score slots are served from high score to low. The code takes the first candidate out
    of an unordered Python set; here that is the lowest expert id, because a replay must not depend on hashing. It never
    substitutes in prefill. ``alpha``: 0.25 in every released configuration. The paper's rule is ``score_band``.
    Badly: the substitute's score plays no part in the choice, so the best of the band is often passed over.

    Source: goingshr/SMoE, utils/expertcache.py, ``cache_router`` and ``replaceset_between_tokens``,
    https://github.com/goingshr/SMoE.
    """

    alpha: float = 0.25

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.alpha", self.alpha, 0.0, 1.0)

    def band(self) -> float:
        return self.alpha

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, False):
            return
        available = np.zeros(state.num_experts, np.bool_)
        used = np.zeros(state.num_experts, np.bool_)
        mark_available(state, self.alpha, available, used)
        for token in range(state.num_tokens):
            mark_routed(state, token, used)
            edge = next_score_beside(state.scores[token, : state.num_experts], used)
            for rank in range(state.num_ranks):
                if available[state.ids[token, rank]]:
                    continue
                for expert in range(state.num_experts):
                    score = state.scores[token, expert]
                    inside = (1.0 - self.alpha) * edge < score < edge
                    if inside and available[expert] and not used[expert]:
                        used[expert] = True
                        state.executed_ids[token, rank] = expert
                        break
