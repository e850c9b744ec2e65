"""A textbook SimPy model of demand fetching under LRU: what the engines are compared with, in speed and in result.

Written as the SimPy documentation teaches it: the link is a Resource, every copy a process, the cache an OrderedDict.
One request decodes token by token on one GPU; nothing but a fixed time per layer, computing experts and copying them
takes time. Each layer keeps its own least recently used experts. Integer nanoseconds.
Source: https://simpy.readthedocs.io/en/4.1.1/topical_guides/resources.html
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy
from numpy.typing import NDArray

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Times:
    """What a layer costs before its experts are known, computing one expert, and copying one, in ns."""

    layer_ns: int
    expert_ns: int
    copy_ns: int


class Textbook:
    """A GPU that runs layers one after the other, and a link that copies missing experts beside it."""

    def __init__(self, num_layers: int, slots_per_layer: int, times: Times) -> None:
        self.env = simpy.Environment()
        self.link = simpy.Resource(self.env, capacity=1)
        self.caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(num_layers)]
        self.slots_per_layer, self.times = slots_per_layer, times
        self.hits = 0

    def run(self, ids: NDArray[Any]) -> tuple[int, int]:
        """(hits, final time in ns) of decoding ids [T, L, K] from an empty cache of at least K slots per layer."""
        self.env.run(until=self.env.process(self.decode(ids.tolist())))
        return self.hits, int(self.env.now)

    def decode(self, tokens: list[list[list[int]]]) -> Process:
        """All tokens, layer by layer."""
        for token in tokens:
            for cache, experts in zip(self.caches, token, strict=True):
                yield from self.layer(cache, experts)

    def layer(self, cache: OrderedDict[int, None], experts: list[int]) -> Process:
        """Look all experts up at once, start copies of the missing ones, run those that are here, then the others."""
        yield self.env.timeout(self.times.layer_ns)
        resident = [expert for expert in experts if expert in cache]
        self.hits += len(resident)
        copies = [self.env.process(self.copy()) for _ in range(len(experts) - len(resident))]
        self.touch(cache, experts)
        for _ in resident:
            yield self.env.timeout(self.times.expert_ns)
        for copy in copies:
            yield copy
            yield self.env.timeout(self.times.expert_ns)

    def copy(self) -> Process:
        """One copy: wait for the link, then occupy it."""
        with self.link.request() as turn:
            yield turn
            yield self.env.timeout(self.times.copy_ns)

    def touch(self, cache: OrderedDict[int, None], experts: list[int]) -> None:
        """The experts of this step become the most recent ones; the least recent ones make room."""
        for expert in experts:
            cache[expert] = None
            cache.move_to_end(expert)
        while len(cache) > self.slots_per_layer:
            cache.popitem(last=False)
