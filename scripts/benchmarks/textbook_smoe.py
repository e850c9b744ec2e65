"""A textbook SimPy model of SMoE's four-part policy: what the engines are compared with, in speed and in result.

The same rules as ``policy=importance`` (score bands, score window, early gate, two pointers; the sources are in
``policies/``), written a second time as a researcher would for one study: sets and numpy, the link a PriorityResource,
every copy a process. One request decodes token by token on one GPU; a layer, an expert, a copy and a CPU expert each
take a fixed time. Each layer has its own slots. Integer nanoseconds.
Source: https://simpy.readthedocs.io/en/4.1.1/topical_guides/resources.html
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

Process = Generator[simpy.Event, Any, None]
Scores = NDArray[np.floating]
DEMAND, PREFETCH = 0, 1
COARSE = 1.5 * 2.0**12
"""As in ``policies.eviction.score_window``: scores in the window are multiples of 2^-40."""


@dataclass(frozen=True)
class Times:
    """A layer before its experts are known, an expert on the GPU, a copy, an expert on the CPU, in ns."""

    layer_ns: int
    expert_ns: int
    copy_ns: int
    cpu_ns: int


@dataclass
class Transfer:
    """A prefetch that waits for the link."""

    expert: int
    cancelled: bool = False


@dataclass
class Layer:
    """What is known of one layer's experts."""

    num_experts: int
    resident: set[int] = field(default_factory=set)
    flying: dict[int, simpy.Process] = field(default_factory=dict)
    waiting: list[Transfer] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    """Experts that may not be evicted now."""
    prefetched: set[int] = field(default_factory=set)
    window: list[NDArray[np.floating]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sums = np.zeros(self.num_experts)
        self.means = self.sums.tolist()

    def remember(self, scores: Scores, length: int) -> None:
        """Let the scores of a token enter the window."""
        newest = (scores + COARSE) - COARSE
        self.window.append(newest)
        self.sums += newest
        if len(self.window) > length:
            self.sums -= self.window.pop(0)
        self.means = (self.sums / len(self.window)).tolist()


class TextbookSmoe:
    """A GPU that runs layers one after the other, a link and a CPU beside it."""

    def __init__(self, shape: tuple[int, int], slots: int, times: Times, alpha: float = 0.35, window: int = 16) -> None:
        layers, experts = shape
        self.env = simpy.Environment()
        self.link = simpy.PriorityResource(self.env, capacity=1)
        self.layers = [Layer(experts) for _ in range(layers)]
        self.slots, self.times, self.alpha, self.window = slots, times, alpha, window
        self.hits = self.substituted = 0

    def run(self, ids: NDArray[Any], scores: Scores, early: Scores) -> tuple[int, int]:
        """(hits, final time in ns) of decoding ids [T, L, K] with gate scores [T, L, E], early ones [T, L-1, E]."""
        self.env.run(until=self.env.process(self.decode(ids, scores.astype(np.float64), early.astype(np.float64))))
        return self.hits, int(self.env.now)

    def decode(self, ids: NDArray[Any], scores: Scores, early: Scores) -> Process:
        """All tokens, layer by layer."""
        for token in range(len(ids)):
            for number in range(len(self.layers)):
                following = early[token, number] if number + 1 < len(self.layers) else None
                yield from self.layer(number, ids[token, number].tolist(), scores[token, number], following)

    def layer(self, number: int, routed: list[int], scores: Scores, following: Scores | None) -> Process:
        """Decide, start copies and CPU, run what is here, then what comes; wait for the CPU."""
        layer, env, times = self.layers[number], self.env, self.times
        yield env.timeout(times.layer_ns)
        for transfer in layer.waiting:
            transfer.cancelled = True
        layer.waiting.clear()
        layer.kept &= layer.prefetched
        self.hits += sum(expert in layer.resident for expert in routed)
        executed = self.substitute(layer, routed, scores)
        layer.prefetched -= {expert for expert in routed if expert in layer.resident or expert in layer.flying}
        ready = [expert for expert in executed if expert in layer.resident]
        late = [expert for expert in executed if expert in layer.flying]
        missing = [expert for expert in executed if expert not in layer.resident and expert not in layer.flying]
        copied, computed = self.split(missing, scores)
        layer.kept |= {expert for expert in executed if expert not in computed}
        layer.remember(scores, self.window)
        demand = {expert: env.process(self.copy(layer, expert)) for expert in copied}
        cpu = env.process(self.compute(len(computed))) if computed else None
        if following is not None:
            self.prefetch(self.layers[number + 1], following, len(routed))
        for _ in ready:
            yield env.timeout(times.expert_ns)
        for copy in [*(layer.flying.get(expert) for expert in late), *demand.values()]:
            if copy is not None:  # it may have arrived meanwhile
                yield copy
            yield env.timeout(times.expert_ns)
        if cpu is not None:
            yield cpu
        layer.kept.clear()
        layer.prefetched.clear()

    def substitute(self, layer: Layer, routed: list[int], scores: Scores) -> list[int]:
        """Executed experts: missing low-score ones give way to resident ones just below the edge S_{k+1}."""
        if layer.resident.issuperset(routed):
            return routed
        others = scores.copy()
        others[routed] = -1.0
        edge = float(others.max())
        free = [e for e in layer.resident if (1 - self.alpha) * edge <= others[e] <= edge]
        free.sort(key=lambda expert: (-others[expert], expert))
        executed = []
        for expert in routed:
            low = scores[expert] < (1 + self.alpha) * edge
            if low and free and expert not in layer.resident:
                executed.append(free.pop(0))
                self.substituted += 1
            else:
                executed.append(expert)
        return executed

    def split(self, missing: list[int], scores: Scores) -> tuple[list[int], list[int]]:
        """Missing experts for the link and for the CPU, by two pointers over falling importance."""
        ranked = sorted(missing, key=lambda expert: -scores[expert])
        link, cpu, link_ns, cpu_ns = 0, 0, 0, 0
        while link + cpu < len(ranked):
            if link_ns <= cpu_ns:
                link, link_ns = link + 1, link_ns + self.times.copy_ns
            else:
                cpu, cpu_ns = cpu + 1, cpu_ns + self.times.cpu_ns
        return ranked[:link], ranked[link:]

    def prefetch(self, layer: Layer, scores: Scores, count: int) -> None:
        """Fetch the top-score experts that the early gate names; keep those that are there."""
        best = np.argsort(-scores, kind="stable")[: count + 1].tolist()
        edge = float(scores[best[-1]])
        for expert in best[:-1]:
            if not 0.0 < scores[expert] >= (1 + self.alpha) * edge:
                break
            if expert in layer.resident or expert in layer.flying:
                layer.kept.add(expert)
            elif all(transfer.expert != expert for transfer in layer.waiting):
                layer.waiting.append(Transfer(expert))
                self.env.process(self.fetch_early(layer, layer.waiting[-1]))

    def copy(self, layer: Layer, expert: int) -> Process:
        """A demanded copy: wait for the link, take a slot, occupy the link."""
        with self.link.request(priority=DEMAND) as turn:
            yield turn
            yield from self.occupy(layer, expert)

    def fetch_early(self, layer: Layer, transfer: Transfer) -> Process:
        """A prefetch: as ``copy``, unless its layer came first or everything there is kept."""
        with self.link.request(priority=PREFETCH) as turn:
            yield turn
            if not transfer.cancelled:
                layer.waiting.remove(transfer)
                held = len(layer.resident) + len(layer.flying)
                if held < self.slots or not layer.resident <= layer.kept:
                    layer.kept.add(transfer.expert)
                    layer.prefetched.add(transfer.expert)
                    yield from self.occupy(layer, transfer.expert)

    def occupy(self, layer: Layer, expert: int) -> Process:
        """Put the expert in the place of the lowest mean score, for as long as the copy takes."""
        if len(layer.resident) + len(layer.flying) == self.slots:
            layer.resident.remove(min(layer.resident - layer.kept, key=lambda e: (layer.means[e], e)))
        process = self.env.active_process
        assert process is not None
        layer.flying[expert] = process
        yield self.env.timeout(self.times.copy_ns)
        del layer.flying[expert]
        layer.resident.add(expert)

    def compute(self, count: int) -> Process:
        """The CPU runs its experts one after the other."""
        for _ in range(count):
            yield self.env.timeout(self.times.cpu_ns)
