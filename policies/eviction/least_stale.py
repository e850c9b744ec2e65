"""First what the current forward pass has not touched."""

from dataclasses import dataclass

from policies.base import Eviction, Vector
from policies.state import State


@dataclass(frozen=True)
class LeastStale(Eviction):
    """Evict first what the current forward pass has not touched, then the rest; each in order of (layer, expert).

    A prefetch counts as a touch. The order fits one pool for all layers: layers already passed come last to be needed
    again and first to be touched. Badly: per-layer pools, where it is a fixed order of expert numbers.

    Memory: [0] forward pass of the last touch, plus 1.

    Source: "SpecMD", Least-Stale, https://arxiv.org/abs/2602.03921.
    """

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1

    def touch(self, state: State, memory: Vector) -> None:
        if memory[0] != state.step + 1:
            memory[0] = state.step + 1
            state.priority[:, :] = 0.0
        for i in range(state.num_executed):
            state.priority[state.layer, state.executed[i]] = 1.0

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        state.priority[layer, expert] = 1.0
