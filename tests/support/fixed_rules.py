"""Rules that do exactly what a hand-worked timeline says, whatever the trace: no paper proposes them."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from policies.base import Assignment, Eviction, Policy, Prediction, Prefetch, Substitution, Vector
from policies.needs import Need
from policies.state import CPU, DROPPED, State
from tests.support.replays import BARE


@dataclass(frozen=True)
class Silent(Prediction):
    """Predict nothing: a prefetch rule must stand beside a prediction, also one that does not look at it."""

    def predict(self, state: State, memory: Vector) -> None:
        state.num_predicted = 0


@dataclass(frozen=True)
class FetchRow(Prefetch):
    """In layer 0, from step ``since`` on, fetch ``count`` experts of ``layer`` from ``first`` on, in ``pieces``."""

    layer: int = 1
    first: int = 0
    count: int = 1
    pieces: int = 1
    since: int = 0

    def chunks(self) -> int:
        return self.pieces

    def choose(self, state: State, memory: Vector) -> None:
        if state.layer == 0 and state.step >= self.since:
            for i in range(self.count):
                state.prefetch_layer[i] = self.layer
                state.prefetch_expert[i] = self.first + i
                state.num_prefetch += 1


def fetching(**knobs: Any) -> Policy:
    """An LRU cache with the prefetches of a ``FetchRow``."""
    return replace(BARE, name="fetching", prediction=Silent(), prefetch=FetchRow(**knobs))


@dataclass(frozen=True)
class LowUntil(Substitution):
    """Let low-precision copies do in the first ``steps`` steps."""

    steps: int = 1
    low_bits: float = 4.0

    needs: ClassVar[frozenset[Need]] = frozenset({Need.LOW_PRECISION})

    def low_precision_bits(self) -> float:
        return self.low_bits

    def substitute(self, state: State, memory: Vector) -> None:
        if state.step < self.steps:
            for expert in range(state.num_experts):
                state.degraded[expert] = 1


@dataclass(frozen=True)
class LastOnCpu(Assignment):
    """Let the CPU compute the last ``count`` missing experts of a layer step."""

    count: int = 1

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        for i in range(state.num_missing):
            if i >= state.num_missing - self.count:
                state.side[i] = CPU


@dataclass(frozen=True)
class Refuse(Eviction):
    """Evict the lowest (layer, expert); let a miss pass by the cache rather than evict ``key`` (layer * E + expert)."""

    key: int = 0

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        return bool(victim_layer * state.num_experts + victim == self.key)


@dataclass(frozen=True)
class Twice(Substitution):
    """Breaks the contract: give every rank of a token its best expert."""

    def substitute(self, state: State, memory: Vector) -> None:
        for token in range(state.num_tokens):
            for rank in range(state.num_ranks):
                state.executed_ids[token, rank] = state.ids[token, 0]


@dataclass(frozen=True)
class FetchAll(Prefetch):
    """In every layer fetch every expert of the next one."""

    pieces: int = 2

    def chunks(self) -> int:
        return self.pieces

    def choose(self, state: State, memory: Vector) -> None:
        if state.layer + 1 < state.num_layers:
            for expert in range(state.num_experts):
                state.prefetch_layer[expert] = state.layer + 1
                state.prefetch_expert[expert] = expert
            state.num_prefetch = state.num_experts


@dataclass(frozen=True)
class DropAll(Substitution):
    """Execute nothing."""

    def substitute(self, state: State, memory: Vector) -> None:
        for token in range(state.num_tokens):
            for rank in range(state.num_ranks):
                state.executed_ids[token, rank] = DROPPED
