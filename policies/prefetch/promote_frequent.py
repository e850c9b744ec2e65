"""Background admission by frequency: what recent tokens used most comes to the GPU for later steps."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prefetch, Vector, require
from policies.prefetches import fetch, is_chosen, is_missing
from policies.recent_uses import count_step, recent_counts, recent_uses_size
from policies.state import RESIDENT, State


@dataclass(frozen=True)
class PromoteFrequent(Prefetch):
    """After a layer, bring the absent experts that most of its last ``window`` tokens used, every ``every`` tokens.

    At most ``limit`` per layer step; only experts used more often than the layer's least used resident one; ties to the
    lower id. Counts are of routed experts, a prompt's tokens included. ``recent_frequency`` evicts by the same counts.
    Badly: shortly after the topic has changed, when the counts still speak of what came before.

    Memory per layer: counts over the last tokens, see ``policies.recent_uses``.

    Source: expert caches of llama.cpp that keep the hottest experts, https://github.com/ggml-org/llama.cpp/pull/24524.
    """

    window: int = 64
    every: int = 1
    limit: int = 2

    promotes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("policy.prefetch.window", self.window, 1, 4096)
        require("policy.prefetch.every", self.every, 1, 2**31)
        require("policy.prefetch.limit", self.limit, 1, 65536)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return recent_uses_size(num_layers, num_experts, num_ranks, self.window)

    def choose(self, state: State, memory: Vector) -> None:
        seen = count_step(state, memory, self.window)
        if (seen + state.num_tokens) // self.every == seen // self.every:
            return
        counts, layer, least = recent_counts(state, memory, self.window), state.layer, -1.0
        for expert in range(state.num_experts):
            if state.status[layer, expert] == RESIDENT and (least < 0.0 or counts[expert] < least):
                least = counts[expert]
        for _ in range(min(self.limit, state.num_experts)):
            best = -1
            for expert in range(state.num_experts):
                better = is_missing(state, layer, expert) and counts[expert] > (least if best < 0 else counts[best])
                if better and counts[expert] > 0.0 and not is_chosen(state, expert):
                    best = expert
            if best < 0:
                return
            fetch(state, layer, best)
