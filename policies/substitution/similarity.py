"""Replace missing low-score experts by the resident ones whose measured outputs are most alike."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Substitution, Vector, require
from policies.memory import matrix_at
from policies.needs import Need
from policies.scores import next_score_of
from policies.state import State
from policies.substitutes import best_resident, is_low, left_alone, mark_resident, mark_routed
from traces.format.trace import Geometry, Trace


@dataclass(frozen=True)
class Similarity(Substitution):
    """Replace a missing expert with s < (1 + alpha) * S_{k+1} by the free resident expert most similar to it.

    Similarity is the cosine of the two experts' outputs on the same inputs, averaged over measured tokens, as the trace
    carries it. An expert less similar than ``min_similarity`` never substitutes. It replaces the assumption behind
    score bands, that a nearly equal gate score means a nearly equal expert, by a measurement.
    Badly: an average over tokens says little about the token at hand; where all experts are alike (or none is) the
    choice is arbitrary.

    Memory: the similarities [L, E, E], which never change.

    Source: rule of this project, to test the claim of functionally similar experts in SMoE, section 3,
    https://arxiv.org/abs/2508.18983.
    """

    alpha: float = 0.35
    min_similarity: float = 0.0
    during_prefill: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES, Need.EXPERT_SIMILARITY})

    def __post_init__(self) -> None:
        require("policy.substitution.alpha", self.alpha, 0.0, 1.0)
        require("policy.substitution.min_similarity", self.min_similarity, -1.0, 1.0)

    def band(self) -> float:
        return self.alpha

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts * num_experts

    def initial_memory(self, geometry: Geometry, similarity: NDArray[Any] | None, others: Trace | None) -> Vector:
        return np.asarray(similarity, dtype=np.float64).reshape(-1)

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        experts = state.num_experts
        resident = np.zeros(experts, np.bool_)
        mark_resident(state, resident)
        used = np.zeros(experts, np.bool_)
        alike = matrix_at(memory, state.layer * experts * experts, experts, experts)
        for token in range(state.num_tokens):
            edge = next_score_of(state, token)
            mark_routed(state, token, used)
            for rank in range(state.token_ranks[token]):
                routed = state.ids[token, rank]
                if resident[routed] or not is_low(state, token, rank, edge, self.alpha):
                    continue
                best = best_resident(alike[routed], self.min_similarity, resident, used)
                if best >= 0:
                    used[best] = True
                    state.executed_ids[token, rank] = best
