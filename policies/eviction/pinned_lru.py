"""The hottest experts pinned, LRU for the rest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Eviction, Vector, require
from policies.needs import Need
from policies.state import State
from traces.format.mapped import load
from traces.format.ranks import use_counts
from traces.format.trace import Trace

PINNED = 2.0**62
"""Above the time of every layer step."""


@dataclass(frozen=True)
class PinnedLru(Eviction):
    """Keep the ``pinned`` experts per layer that other requests used most; of the rest the least recent one leaves.

    A warm start holds the most used experts, the pinned ones among them; after a cold start a pinned expert stays from
    its first copy on. Pinned ones leave only where nothing else is left to evict, lowest id first.
    Badly: pinned slots are wasted on experts that the request at hand does not use.

    Memory: popularity [L, E], then 1 for every pinned expert [L, E].

    Source: hot experts pinned beside an LRU in the released engines of https://github.com/JustVugg/colibri (PIN_GB).
    """

    pinned: int = 1

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FIT})

    def __post_init__(self) -> None:
        require("policy.eviction.pinned", self.pinned, 0, 65536)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 2 * num_layers * num_experts

    def fit(self, trace: Trace) -> Vector:
        uses = use_counts(load(trace.topk_ids), trace.fewer, trace.num_experts)  # [L, E]
        hottest = np.argsort(-uses, axis=1, kind="stable")[:, : self.pinned]
        pinned = np.zeros(uses.shape)
        np.put_along_axis(pinned, hottest, 1.0, axis=1)
        return np.concatenate([uses.ravel().astype(np.float64), pinned.ravel()])

    def initial(self, num_layers: int, num_experts: int, memory: Vector) -> NDArray[np.float64] | None:
        """Worth of every expert as initial content, [L, E]: the most used ones are in the cache at a warm start."""
        return memory[: num_layers * num_experts].reshape(num_layers, num_experts)

    def touch(self, state: State, memory: Vector) -> None:
        share = 1.0 / max(1, state.num_executed)
        row = (state.num_layers + state.layer) * state.num_experts
        for i in range(state.num_executed):
            expert = state.executed[i]
            state.priority[state.layer, expert] = PINNED if memory[row + expert] > 0.0 else state.now + i * share

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        row = (state.num_layers + layer) * state.num_experts
        if memory[row + expert] > 0.0:
            state.priority[layer, expert] = PINNED
        elif prefetched:
            state.priority[layer, expert] = max(state.priority[layer, expert], state.now)
