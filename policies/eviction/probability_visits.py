"""FineMoE's eviction: probability times visits."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.memory import layer_row
from policies.needs import Need
from policies.scores import mean_scores
from policies.state import State


@dataclass(frozen=True)
class ProbabilityVisits(Eviction):
    """Evict the expert with the lowest probability * in-cache visits.

    Every execution is a visit, and eviction does not reset them. The paper takes the probability from the expert map
    that its store matches to the iteration; here it is the gate score in the last step of the expert's layer, mean over
    its tokens. Experts about to be fetched or used are shielded by the engine. With ``truncate`` the product is stored
    as a whole number, as the released code does by oversight: it is mostly 0, and the lowest (layer, expert) goes.

    Memory: visits [L, E].

    Source: FineMoE (fMoE), expert cache, https://arxiv.org/abs/2502.05370; truncation: core/prefetch/task_scheduler.cpp
    of its release.
    """

    truncate: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        visits, priority = layer_row(state, memory, 0), state.priority[state.layer]
        for i in range(state.num_executed):
            visits[state.executed[i]] += 1.0
        mean_scores(state, priority)
        for expert in range(state.num_experts):
            priority[expert] *= visits[expert]
            if self.truncate:
                priority[expert] = float(int(priority[expert]))
