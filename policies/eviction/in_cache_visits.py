"""MoE-Infinity's eviction as its code runs it."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.memory import layer_row
from policies.priorities import with_recency
from policies.state import State


@dataclass(frozen=True)
class InCacheVisits(Eviction):
    """Evict the expert with the smallest in-cache visit count; eviction does not reset it.

    The code adds 1 for a hit and 1 for the fetch that follows a miss, so every execution counts once; its victims come
    from one pool for all layers, so use ``cache.scope=global``. It looks for the smallest count in a loop over experts
    and, inside it, over layers, so among equals the lowest (expert, layer) goes.
    Badly: as ``lfu_lifetime``, with blind ties on top.

    Memory: visits [L, E].

    Source: MoE-Infinity's code, core/parallel/expert_dispatcher.cpp (GPUFetchFunc),
    https://github.com/EfficientMoE/MoE-Infinity; its paper: see ``activation_prior``.
    """

    one_layer: ClassVar[bool] = True

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        visits = layer_row(state, memory, 0)
        for i in range(state.num_executed):
            visits[state.executed[i]] += 1.0
            expert = state.executed[i]
            place = expert * state.num_layers + state.layer
            state.priority[state.layer, expert] = with_recency(visits[expert], place)
