"""Least frequently used over the whole run."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.memory import layer_row
from policies.priorities import with_recency
from policies.state import State


@dataclass(frozen=True)
class LfuLifetime(Eviction):
    """Evict the expert executed in the fewest layer steps so far, in the cache or not; among equals the least recent.

    Counts are never reset. A prefetch counts as a touch but not as a use. Badly: where popularity moves with the topic,
    old counts outvote it; see ``aged_lfu``.

    Memory: [0] clock of touches, then counts [L, E].

    Source: textbook (perfect LFU); the rule ``lfu`` of BigMoeOnEdge's scripts/route-replay.py,
    https://github.com/Helldez/BigMoeOnEdge, and of the expert cache measured in https://github.com/h39s/mlsys.
    """

    one_layer: ClassVar[bool] = True

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        counts = layer_row(state, memory, 1)
        for i in range(state.num_executed):
            expert = state.executed[i]
            counts[expert] += 1.0
            memory[0] += 1.0
            state.priority[state.layer, expert] = with_recency(counts[expert], memory[0])

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        if prefetched:
            memory[0] += 1.0
            uses = memory[1 + layer * state.num_experts + expert]
            state.priority[layer, expert] = with_recency(uses, memory[0])
