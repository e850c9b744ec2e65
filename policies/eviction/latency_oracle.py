"""Belady's rule that weighs the next use by what the miss would cost."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.jitable import jitable
from policies.needs import Need
from policies.priorities import first_call
from policies.state import NEVER, RESIDENT, State


@jitable
def worth(state: State, layer: int, expert: int) -> float:
    """Copy time of an expert over the layer steps until its next demand; 0 if it is never demanded again."""
    next_use = state.next_use[layer, expert]
    return 0.0 if next_use == NEVER else float(state.load_ns[layer] / max(next_use - state.now, 1))


@dataclass(frozen=True)
class LatencyOracle(Eviction):
    """Evict the expert that saves the least copy time per layer step in which it would hold its slot.

    worth = load_ns of its layer / (time of its next demand - now), 0 if it is never demanded again. A miss whose own
    worth is no higher than the victim's streams past the cache. What it greedily minimises is the sum of copy times of
    all misses; with experts of equal copy time the decisions are those of ``belady``. It is NOT a bound: greedy choice
    is not optimal for unequal costs, the size of an expert is left out, and a copy hidden behind computation costs
    less than its copy time. It reads the future, so it is no rule for a live system.

    Memory: [0] the time of the last refresh.

    Source: this project; cost over distance as in GreedyDual-Size, Cao and Irani, USITS 1997,
    https://www.usenix.org/conference/usits-97/cost-aware-www-proxy-caching-algorithms, with Belady's knowledge.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FUTURE})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        if not first_call(state, memory):
            return
        for other in range(state.num_layers):
            for expert in range(state.num_experts):
                if state.status[other, expert] == RESIDENT:
                    state.priority[other, expert] = worth(state, other, expert)

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        state.priority[layer, expert] = worth(state, layer, expert)

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        return worth(state, state.layer, expert) <= float(state.priority[victim_layer, victim])
