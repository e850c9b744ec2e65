"""Every missing expert is computed on the CPU."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.state import CPU, State


@dataclass(frozen=True)
class CpuOnly(Assignment):
    """Compute all misses where their weights lie; nothing is copied on demand.

    A static placement: only a warm start (``cache.start=warm``) or prefetching puts experts into GPU memory.
    Badly: in prefill, where an expert serves many tokens and the CPU's arithmetic is the limit.

    Source: experts on the CPU in llama.cpp, https://github.com/ggml-org/llama.cpp, and KTransformers,
    https://github.com/kvcache-ai/ktransformers.
    """

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        for i in range(state.num_missing):
            state.side[i] = CPU
