"""The best set that never changes, known afterwards: a bound."""

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
class FrozenHindsight(Eviction):
    """Keep the experts that the replayed requests themselves will use most: no static placement hits more of them.

    Counts (token, expert) pairs, so it is the bound of one token per step; a batch demands an expert once for several
    tokens. A miss streams past the cache or runs on the CPU.
    Badly: it cannot be had; it says what a static placement could reach at best.

    Memory: uses [L, E].

    Source: offline bound of static placement, as "hindsight-static" beside Fiddler's popularity,
    https://arxiv.org/abs/2402.07033.
    """

    one_layer: ClassVar[bool] = True
    static: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.HINDSIGHT})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def fit(self, trace: Trace) -> Vector:
        return use_counts(load(trace.topk_ids), trace.fewer, trace.num_experts).ravel().astype(np.float64)

    def initial(self, num_layers: int, num_experts: int, memory: Vector) -> NDArray[np.float64] | None:
        """Worth of every expert as initial content, [L, E]: the highest are in the cache."""
        return memory.reshape(num_layers, num_experts)

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        return True
