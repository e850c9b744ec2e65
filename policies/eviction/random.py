"""A victim drawn at random."""

from dataclasses import dataclass

from policies.base import Eviction, Vector
from policies.hashing import uniform
from policies.priorities import first_call
from policies.state import RESIDENT, State


@dataclass(frozen=True)
class Random(Eviction):
    """Evict a resident expert drawn uniformly among those not shielded.

    Every resident draws a new number in each layer step that evicts, a hash of the run's seed, the time and the expert:
    the same seed gives the same victims in every engine. The baseline that knows nothing.

    Memory: [0] the time of the last draw.

    Source: textbook; as expert cache among the strategies measured in https://github.com/h39s/mlsys.
    """

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        state.priority[layer, expert] = uniform(state.seed, state.now, layer, expert)

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        if not first_call(state, memory):
            return
        for other in range(state.num_layers):
            for expert in range(state.num_experts):
                if state.status[other, expert] == RESIDENT:
                    state.priority[other, expert] = uniform(state.seed, state.now, other, expert)
