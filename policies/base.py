"""The five parts of a policy and the signatures of their decisions.

A part is a frozen dataclass: its fields are its knobs, some of its methods are its decisions. A decision takes a
``policies.state.State`` and the part's private memory. It may loop and calculate over their arrays and read the part's
numeric knobs (``self.alpha``); it uses no other Python objects, because every engine calls it compiled by numba.
``memory`` is a float64 array of ``memory_size`` cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.allocation.base import Allocation
from policies.allocation.uniform import Uniform
from policies.state import State
from traces.errors import UserError
from traces.format.trace import Trace

Vector = NDArray[np.float64]


def require(name: str, value: float, low: float, high: float) -> None:
    """Check a knob's range. Raises UserError naming the knob, its value and what is allowed."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{name}={value:g}: must be {allowed}")


@dataclass(frozen=True)
class Part:
    """What all parts share: knobs, private memory, and what they need of a trace."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Of 'gate_scores', 'importance' (scores or weights), 'future' (``next_use``), 'oracle' (``routed``),
    'lookahead_before', 'lookahead_after' (recorded early gates), 'forecast' (a trained predictor), 'expert_similarity',
    'fit' (other requests to learn from), 'cpu' (the time of CPU experts), 'low_precision' (its copy time)."""

    def all_needs(self) -> frozenset[str]:
        """The needs of this part with these knobs."""
        return self.needs

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        """How many float64 cells of private memory the part wants."""
        return 0

    def fit(self, trace: Trace) -> Vector:
        """What ``memory`` holds at the start, [memory_size], for parts with the need 'fit'; others begin with zeros.

        ``trace`` holds the requests to learn from; they are never replayed.
        """
        raise NotImplementedError(f"{type(self).__name__} states the need 'fit' and has no fit()")


@dataclass(frozen=True)
class Eviction(Part):
    """Which resident expert makes room. The engine evicts the lowest (priority, layer, expert) not shielded."""

    static: ClassVar[bool] = False
    """True for a placement that never changes: it starts filled, and every miss passes by the cache."""

    def touch(self, state: State, memory: Vector) -> None:
        """Update ``state.priority`` after the demand of a layer step is known. Once per layer step."""

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        """Bring priorities of ``layer`` up to date just before a victim is chosen for a copy to that layer."""

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        """An expert takes a slot: its copy starts now."""

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        """Whether a missing ``expert`` of the current layer shall stream past the cache instead of evicting."""
        return False

    def initial(self, num_layers: int, num_experts: int, memory: Vector) -> Vector | None:
        """[L, E] worth of each expert: a warm start fills the cache with the worthiest. None: in order of their ids."""
        return None


@dataclass(frozen=True)
class Prediction(Part):
    """Which experts later layers will want: writes ``state.predicted`` and ``state.num_predicted``."""

    def predict(self, state: State, memory: Vector) -> None:
        """Called once per layer step with ``num_predicted`` = 0, ``num_predicted_tokens`` = ``num_tokens``."""

    def depth(self, num_layers: int) -> int:
        """How many layers ahead it predicts at most."""
        return 1

    def available_at_end(self) -> bool:
        """True if the prediction exists only at the end of the layer, false if already at its gate."""
        return False


@dataclass(frozen=True)
class Prefetch(Part):
    """What to fetch early: writes ``prefetch_layer``, ``prefetch_expert``, ``num_prefetch`` in the order to fetch."""

    def choose(self, state: State, memory: Vector) -> None:
        """Called after ``predict`` with ``num_prefetch`` = 0; experts already present or queued are skipped."""

    def chunks(self) -> int:
        """Pieces in which a prefetched expert is copied; demand copies go between two pieces. 1: all at once."""
        return 1


@dataclass(frozen=True)
class Substitution(Part):
    """Which experts to execute for those routed: writes ``state.executed_ids``, which starts as a copy of ``ids``.

    May also mark experts in ``state.degraded``: if such an expert is missing, a low-precision copy of it is fetched.
    """

    def substitute(self, state: State, memory: Vector) -> None:
        """Sees the whole batch at once; must not give one token the same expert twice."""


@dataclass(frozen=True)
class Assignment(Part):
    """Who supplies each missing expert, in which order: writes ``state.side`` and ``state.order``.

    Both start as: everything over the link, in order of the demand.
    """

    def assign(self, state: State, memory: Vector) -> None:
        """Called once per layer step that misses something."""


@dataclass(frozen=True)
class Policy:
    """A named composition of the five parts, and how the capacity is split over the layers (``allocation``).

    ``residency``: 'cache' (the configured capacity), 'all' (every expert has a slot and starts resident: a bound) or
    'none' (no slots: every expert is fetched for each layer step and kept nowhere: the other bound).
    ``write_back``: 'none' (the host keeps every expert), 'serial' (a victim is copied home before its replacement
    comes) or 'overlap' (both directions at once; the link is free again when both are done).
    """

    name: str
    eviction: Eviction
    prediction: Prediction
    prefetch: Prefetch
    substitution: Substitution
    assignment: Assignment
    residency: str = "cache"
    write_back: str = "none"
    allocation: Allocation = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        if self.residency not in ("cache", "all", "none"):
            raise UserError(f"policy.residency={self.residency}: must be cache, all or none")
        if self.write_back not in ("none", "serial", "overlap"):
            raise UserError(f"policy.write_back={self.write_back}: must be none, serial or overlap")

    def parts(self) -> tuple[Part, ...]:
        return (self.eviction, self.prediction, self.prefetch, self.substitution, self.assignment)

    def needs(self) -> dict[str, str]:
        """What the parts need of a trace or machine -> the class name of the part that needs it."""
        found = {need: type(part).__name__ for part in self.parts() for need in sorted(part.all_needs())}
        return {need: type(self.allocation).__name__ for need in self.allocation.needs} | found
