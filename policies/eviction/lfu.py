"""Least frequently used while in the cache."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.memory import layer_row
from policies.priorities import with_recency
from policies.state import ABSENT, State


@dataclass(frozen=True)
class Lfu(Eviction):
    """Evict the expert executed in the fewest layer steps since it was admitted; among equals the least recent.

    A miss starts at 1, a prefetched expert at 0. Eviction forgets the count. Badly: a newcomer is evicted before it
    can show its worth, and what was popular long ago stays.

    Memory: [0] clock of touches, then counts [L, E].

    Source: textbook (in-cache LFU), as in libCacheSim's LFU, https://github.com/1a1a11a/libCacheSim,
    libCacheSim/cache/eviction/LFU.c: there equals leave in the order in which they reached their count.
    """

    one_layer: ClassVar[bool] = True

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        counts = layer_row(state, memory, 1)
        for i in range(state.num_executed):
            expert = state.executed[i]
            absent = state.status[state.layer, expert] == ABSENT
            counts[expert] = 1.0 if absent else counts[expert] + 1.0
            memory[0] += 1.0
            state.priority[state.layer, expert] = with_recency(counts[expert], memory[0])

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        if prefetched:
            memory[1 + layer * state.num_experts + expert] = 0.0
            memory[0] += 1.0
            state.priority[layer, expert] = with_recency(0.0, memory[0])
