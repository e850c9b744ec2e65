"""Whole layers in GPU memory for good: llama.cpp's split."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Eviction, Vector
from policies.state import State


@dataclass(frozen=True)
class FrozenLayers(Eviction):
    """Keep the experts of the last layers, as many as fit; a miss streams past the cache or runs on the CPU.

    With ``cache.scope=global`` these are whole layers, as in llama.cpp; with a pool per layer the first experts of
    each. Badly: it knows nothing of which experts are used.

    Source: llama.cpp, --n-cpu-moe (pull request 15077), https://github.com/ggml-org/llama.cpp.
    """

    one_layer: ClassVar[bool] = True
    static: ClassVar[bool] = True

    def initial(self, num_layers: int, num_experts: int, memory: Vector) -> NDArray[np.float64] | None:
        """Worth of every expert as initial content, [L, E]: later layers first."""
        return np.repeat(np.arange(num_layers, dtype=np.float64)[:, None], num_experts, axis=1)

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        return True
