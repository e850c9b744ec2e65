"""Fiddler's static placement."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Eviction, Vector
from policies.needs import Need
from policies.state import State
from traces.format.mapped import load
from traces.format.ranks import use_counts
from traces.format.trace import Trace


@dataclass(frozen=True)
class FrozenPopularity(Eviction):
    """Keep the experts that other requests used most; a miss streams past the cache or runs on the CPU.

    Popularity counts (token, expert) pairs over the requests held out to learn from. The placement is the initial
    content, whatever ``cache.start`` says, and never changes.
    Badly: where requests differ from those it learned from; popularity is flat by design of load-balanced routers.

    Memory: popularity [L, E].

    Source: Fiddler, expert placement by popularity, https://arxiv.org/abs/2402.07033.
    """

    one_layer: ClassVar[bool] = True
    static: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FIT})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def fit(self, trace: Trace) -> Vector:
        uses = use_counts(load(trace.topk_ids), trace.fewer, trace.num_experts)  # [L, E]
        return uses.ravel().astype(np.float64)

    def initial(self, num_layers: int, num_experts: int, memory: Vector) -> NDArray[np.float64] | None:
        """Worth of every expert as initial content, [L, E]: the highest are in the cache at a warm start."""
        return memory.reshape(num_layers, num_experts)

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        return True
