"""EdgeMoE: low frequency and far layer."""

from dataclasses import dataclass

from policies.base import Eviction, Vector
from policies.nearness import nearness
from policies.state import RESIDENT, State


@dataclass(frozen=True)
class EdgeMoe(Eviction):
    """Evict the expert with the lowest frequency * nearness of its layer.

    Frequency counts layer steps that executed the expert, over the whole run; nearness is
    1 - ((layer - current layer) mod L) / L. RECALL ONLY: that EdgeMoE evicts by low frequency and far layer is general
    knowledge; its formula was not found, and the product is this file's choice. Do not quote results as EdgeMoE's.
    Badly: where popularity moves with the topic.

    Memory: [0] time of the last refresh, then counts [L, E].

    Source: EdgeMoE, expert buffer management, https://arxiv.org/abs/2308.14352 (formula not read).
    """

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        for i in range(state.num_executed):
            memory[1 + state.layer * state.num_experts + state.executed[i]] += 1.0

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        if memory[0] == state.now:
            return
        memory[0] = state.now
        for other in range(state.num_layers):
            near = nearness(other, state.layer, state.num_layers)
            for expert in range(state.num_experts):
                if state.status[other, expert] == RESIDENT:
                    state.priority[other, expert] = memory[1 + other * state.num_experts + expert] * near
