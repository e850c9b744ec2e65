"""Background admission on demand: what the CPU has just computed comes to the GPU for later steps."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Prefetch, Vector, require
from policies.needs import Need
from policies.prefetches import fetch
from policies.state import ABSENT, CPU, State


@dataclass(frozen=True)
class PromoteMissed(Prefetch):
    """After a layer, bring the experts that the CPU has computed in it: at most ``limit`` per layer step.

    Those that served most tokens come first, among equals in the order of the demand (best rank first). With eviction
    by ``lru`` this is a cache filled on demand whose misses nobody waits for.
    Badly: where experts are rarely used twice each copy evicts one that would have been.

    Memory is scratch: a flag per expert.

    Source: "GPU-resident LRU cache for host-offloaded MoE expert weights", whose uploads per layer and step are capped
    (--moe-expert-cache-inserts, 2 in its measurement), https://github.com/ggml-org/llama.cpp/pull/27861.
    """

    limit: int = 2

    promotes: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def __post_init__(self) -> None:
        require("policy.prefetch.limit", self.limit, 1, 65536)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_experts

    def choose(self, state: State, memory: Vector) -> None:
        waiting = 0
        for i in range(state.num_missing):
            absent = state.status[state.layer, state.missing[i]] == ABSENT
            memory[i] = 1.0 if absent and state.side[i] == CPU else 0.0
            waiting += int(memory[i])
        for _ in range(min(waiting, self.limit)):
            best = -1
            for i in range(state.num_missing):
                if memory[i] > 0.0 and (best < 0 or state.missing_tokens[i] > state.missing_tokens[best]):
                    best = i
            memory[best] = 0.0
            fetch(state, state.layer, state.missing[best])
