"""Least recently used."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.state import State


@dataclass(frozen=True)
class Lru(Eviction):
    """Evict the expert whose last execution lies furthest back.

    Inside a layer step recency runs token by token, best rank first. A prefetched expert counts as used when its copy
    starts. Badly: when the demand between two uses of an expert exceeds the capacity it always misses (a scan).

    Source: textbook; as expert cache in Eliseev and Mazur, "Fast Inference of MoE Language Models with Offloading",
    section 3.1, https://arxiv.org/abs/2312.17238.
    """

    one_layer: ClassVar[bool] = True

    def touch(self, state: State, memory: Vector) -> None:
        share = 1.0 / max(1, state.num_executed)
        for i in range(state.num_executed):
            state.priority[state.layer, state.executed[i]] = state.now + i * share

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        if prefetched:  # one of background admission keeps its place in the step that has just used it
            state.priority[layer, expert] = max(state.priority[layer, expert], state.now)
