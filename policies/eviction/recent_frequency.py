"""Least used among the last tokens."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector, require
from policies.priorities import with_recency
from policies.recent_uses import count_step, recent_counts, recent_uses_size
from policies.state import State


@dataclass(frozen=True)
class RecentFrequency(Eviction):
    """Evict the expert that fewest of the last ``window`` tokens of its layer used; among equals the least recent.

    Counts are of routed experts, in the cache or not. Badly: it forgets at once what is used again after more than
    ``window`` tokens.

    Memory: counts over the last tokens (``policies.recent_uses``), then the time of each expert's last touch [L, E],
    then [0] a clock of touches.

    Source: textbook (LFU in a sliding window), as "hotness" in https://github.com/ggml-org/llama.cpp/pull/24524.
    """

    window: int = 64

    one_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("policy.eviction.window", self.window, 1, 4096)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return recent_uses_size(num_layers, num_experts, num_ranks, self.window) + num_layers * num_experts + 1

    def touch(self, state: State, memory: Vector) -> None:
        count_step(state, memory, self.window)
        counts, clock = recent_counts(state, memory, self.window), memory.shape[0] - 1
        row = clock - (state.num_layers - state.layer) * state.num_experts
        for i in range(state.num_executed):
            memory[clock] += 1.0
            memory[row + state.executed[i]] = memory[clock]
        for expert in range(state.num_experts):
            state.priority[state.layer, expert] = with_recency(counts[expert], memory[row + expert])
