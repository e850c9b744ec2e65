"""The five parts of a policy and the signatures of their decisions.

A part is a frozen dataclass of knobs with one or more static methods: its decisions. A decision is a plain function of
``(state, knobs, memory, ...)`` in numba's array subset: loops and arithmetic over the arrays of a
``policies.state.State``, no Python objects. ``knobs`` is a float64 array of the part's numeric fields in the order of
the dataclass; ``memory`` is a float64 array of ``memory_size`` zeros that belongs to the part alone. Every engine calls
the same compiled decision.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.state import State
from traces.errors import UserError

Vector = NDArray[np.float64]


def require(name: str, value: float, low: float, high: float) -> None:
    """Check a knob's range. Raises UserError naming the knob, its value and what is allowed."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{name}={value:g}: must be {allowed}")


@dataclass(frozen=True)
class Part:
    """What all parts share: knobs as an array, private memory, and what they need of a trace."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Of 'gate_scores', 'importance' (scores or weights), 'future', 'lookahead_before', 'lookahead_after', 'cpu'."""

    def all_needs(self) -> frozenset[str]:
        """The needs of this part with these knobs."""
        return self.needs

    def knobs(self) -> Vector:
        """All fields but text in dataclass order, float64 [n], None as NaN; text chooses data, not decisions."""
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array([np.nan if v is None else v for v in values if not isinstance(v, str)], dtype=np.float64)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        """How many float64 cells of private memory the part wants."""
        return 0


@dataclass(frozen=True)
class Eviction(Part):
    """Which resident expert makes room. The engine evicts the lowest (priority, layer, expert) not shielded."""

    @staticmethod
    def touch(state: State, knobs: Vector, memory: Vector) -> None:
        """Update ``state.priority`` after the demand of a layer step is known. Once per layer step."""

    @staticmethod
    def refresh(state: State, knobs: Vector, memory: Vector, layer: int) -> None:
        """Bring priorities of ``layer`` up to date just before a victim is chosen for a copy to that layer."""

    @staticmethod
    def admit(state: State, knobs: Vector, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        """An expert takes a slot: its copy starts now."""

    @staticmethod
    def bypass(state: State, knobs: Vector, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        """Whether a missing ``expert`` of the current layer shall stream past the cache instead of evicting."""
        return False


@dataclass(frozen=True)
class Prediction(Part):
    """Which experts later layers will want: writes ``state.predicted`` and ``state.num_predicted``."""

    @staticmethod
    def predict(state: State, knobs: Vector, memory: Vector) -> None:
        """Called once per layer step with ``num_predicted`` = 0."""

    def available_at_end(self) -> bool:
        """True if the prediction exists only at the end of the layer, false if already at its gate."""
        return False


@dataclass(frozen=True)
class Prefetch(Part):
    """What to fetch early: writes ``prefetch_layer``, ``prefetch_expert``, ``num_prefetch`` in the order to fetch."""

    @staticmethod
    def choose(state: State, knobs: Vector, memory: Vector) -> None:
        """Called after ``predict`` with ``num_prefetch`` = 0; experts already present or queued are skipped."""


@dataclass(frozen=True)
class Substitution(Part):
    """Which experts to execute for those routed: writes ``state.executed_ids``, which starts as a copy of ``ids``."""

    @staticmethod
    def substitute(state: State, knobs: Vector, memory: Vector) -> None:
        """Sees the whole batch at once; must not give one token the same expert twice."""


@dataclass(frozen=True)
class Assignment(Part):
    """Who supplies each missing expert, in which order: writes ``state.side`` and ``state.order``.

    Both start as: everything over the link, in order of the demand.
    """

    @staticmethod
    def assign(state: State, knobs: Vector, memory: Vector) -> None:
        """Called once per layer step that misses something."""


@dataclass(frozen=True)
class Policy:
    """A named composition of the five parts.

    ``residency``: 'cache' (the configured capacity), 'all' (every expert has a slot and starts resident: a bound) or
    'none' (no slots: every expert is fetched for each layer step and kept nowhere: the other bound).
    """

    name: str
    eviction: Eviction
    prediction: Prediction
    prefetch: Prefetch
    substitution: Substitution
    assignment: Assignment
    residency: str = "cache"

    def __post_init__(self) -> None:
        if self.residency not in ("cache", "all", "none"):
            raise UserError(f"policy.residency={self.residency}: must be cache, all or none")

    def parts(self) -> tuple[Part, ...]:
        return (self.eviction, self.prediction, self.prefetch, self.substitution, self.assignment)

    def needs(self) -> dict[str, str]:
        """What the parts need of a trace or machine -> the class name of the part that needs it."""
        return {need: type(part).__name__ for part in self.parts() for need in sorted(part.all_needs())}
