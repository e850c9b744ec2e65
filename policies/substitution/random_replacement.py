"""Replace missing low-score experts by random resident ones."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.hashing import uniform
from policies.needs import Need
from policies.scores import next_score_of
from policies.state import State
from policies.substitutes import is_low, left_alone, mark_resident, mark_routed


@dataclass(frozen=True)
class RandomReplacement(Substitution):
    """Replace a missing expert with s < (1 + alpha) * S_{k+1} by a resident expert drawn with equal chances.

    The control for every rule that claims to choose *similar* experts: it touches the same ranks as ``similarity`` and
    saves as many loads, so that a difference in quality is the worth of the choice. An expert that the token executes
    already is never drawn. Draws are a hash of seed, layer step, token and rank. Badly: by design.

    Source: control of this project.
    """

    alpha: float = 0.35
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
        resident = np.zeros(state.num_experts, np.bool_)
        mark_resident(state, resident)
        used = np.zeros(state.num_experts, np.bool_)
        free = np.zeros(state.num_experts, np.int32)
        for token in range(state.num_tokens):
            edge = next_score_of(state, token)
            mark_routed(state, token, used)
            for rank in range(state.token_ranks[token]):
                if resident[state.ids[token, rank]] or not is_low(state, token, rank, edge, self.alpha):
                    continue
                count = 0
                for expert in range(state.num_experts):
                    if resident[expert] and not used[expert]:
                        free[count] = expert
                        count += 1
                if count > 0:
                    drawn = free[int(uniform(state.seed, state.now, token, rank) * count)]
                    used[drawn] = True
                    state.executed_ids[token, rank] = drawn
