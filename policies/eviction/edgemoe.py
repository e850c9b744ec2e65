"""EdgeMoE: low frequency and far layer."""

from dataclasses import dataclass

from policies.base import Eviction, Vector
from policies.memory import layer_row, matrix_at
from policies.priorities import first_call, nearness
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
        counts = layer_row(state, memory, 1)
        for i in range(state.num_executed):
            counts[state.executed[i]] += 1.0

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        if not first_call(state, memory):
            return
        counts = matrix_at(memory, 1, state.num_layers, state.num_experts)
        for other in range(state.num_layers):
            near = nearness(other, state.layer, state.num_layers)
            for expert in range(state.num_experts):
                if state.status[other, expert] == RESIDENT:
                    state.priority[other, expert] = counts[other, expert] * near
