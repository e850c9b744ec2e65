"""HOBBIT's mix of recency, frequency, high-precision use and layer distance."""

from dataclasses import dataclass

from policies.base import Eviction, Vector, require
from policies.priorities import nearness
from policies.state import RESIDENT, State


@dataclass(frozen=True)
class WeightedMix(Eviction):
    """Evict the expert with the lowest weighted sum of four scores, each between 0 and 1.

    recency        step of the last use / steps of its layer (LRU)
    frequency      uses / steps of its layer (LFU)
    high_precision uses in full precision / steps of its layer (LHU): a miss of these costs more bytes
    layer          1 - ((layer - current layer) mod L) / L (layers soon to come stay)
    Steps count from the start of the sequence: statistics start anew with every lockstep batch. The weights are not
    published; equal ones are this file's choice, and so is the scaling to 0..1. Badly: a sequence too short to count.

    Memory: [0] lockstep batch + 1, [1] time of the last refresh, steps [L], then [L, E, 3] last use, uses, full uses.

    Source: HOBBIT, sequence-level multidimensional expert caching, https://arxiv.org/abs/2411.01433.
    """

    recency: float = 0.25
    frequency: float = 0.25
    high_precision: float = 0.25
    layer: float = 0.25

    def __post_init__(self) -> None:
        for name in ("recency", "frequency", "high_precision", "layer"):
            require(f"policy.eviction.{name}", getattr(self, name), 0.0, 1e6)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 2 + num_layers + 3 * num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        if memory[0] != state.group + 1:
            memory[:] = 0.0
            memory[0] = state.group + 1
        memory[2 + state.layer] += 1.0
        for i in range(state.num_executed):
            expert = state.executed[i]
            cell = 2 + state.num_layers + 3 * (state.layer * state.num_experts + expert)
            memory[cell] = memory[2 + state.layer]
            memory[cell + 1] += 1.0
            if state.degraded[expert] == 0:
                memory[cell + 2] += 1.0

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        if memory[1] == state.now:
            return
        memory[1] = state.now
        for other in range(state.num_layers):
            near = self.layer * nearness(other, state.layer, state.num_layers)
            steps = max(memory[2 + other], 1.0)
            for expert in range(state.num_experts):
                if state.status[other, expert] == RESIDENT:
                    cell = 2 + state.num_layers + 3 * (other * state.num_experts + expert)
                    used = self.recency * memory[cell] + self.frequency * memory[cell + 1]
                    used += self.high_precision * memory[cell + 2]
                    state.priority[other, expert] = used / steps + near
