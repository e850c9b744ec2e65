"""First in, first out."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.state import State


@dataclass(frozen=True)
class Fifo(Eviction):
    """Evict the expert whose copy started first; use does not matter.

    Badly: an expert used in every step is evicted as soon as its turn comes.

    Source: textbook; as expert cache it is what SMoE's released code runs under the name LRU (see ``smoe_code``).
    """

    one_layer: ClassVar[bool] = True

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        memory[0] += 1
        state.priority[layer, expert] = memory[0]
