"""The five parts of a policy and the signatures of their decisions.

A part is a frozen dataclass: its fields are its knobs, some of its methods are its decisions. A decision takes a
``policies.state.State`` and the part's private memory. It may loop and calculate over their arrays and read the part's
numeric knobs (``self.alpha``); it uses no other Python objects, because every engine calls it compiled by numba.
``memory`` is a float64 array of ``memory_size`` cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.needs import Need, need_named
from policies.state import State
from traces.errors import UserError
from traces.format.trace import Geometry, Trace

Vector = NDArray[np.float64]


def require(name: str, value: float, low: float, high: float) -> None:
    """Check a knob's range. Raises UserError naming the knob, its value and what is allowed."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise UserError(f"{name}={value:g}: must be {allowed}")


@dataclass(frozen=True)
class Part:
    """What all parts share: knobs, private memory, and what they need of a trace."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    one_layer: ClassVar[bool] = False
    """True if decisions in a layer depend on nothing of other layers (a counter that only orders events of one layer
    does not count). ``python -m sim quality`` then runs the part in one parallel pass."""

    def all_needs(self) -> frozenset[Need]:
        """The needs of this part with these knobs."""
        return self.needs

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        """How many float64 cells of private memory the part wants."""
        return 0

    def initial_memory(self, geometry: Geometry, similarity: NDArray[Any] | None, others: Trace | None) -> Vector:
        """What ``memory`` holds at the start, [memory_size]: zeros, or what ``fit`` learns for a part with that need.

        ``similarity`` [L, E, E] of the experts' outputs is there for parts that need it; ``others`` are the requests to
        learn from, which are not those replayed but for a part with the need 'hindsight'.
        """
        if {Need.FIT, Need.HINDSIGHT} & self.all_needs():
            assert others is not None
            return self.fit(others)
        return np.zeros(self.memory_size(geometry.num_layers, geometry.num_experts, geometry.top_k))

    def fit(self, trace: Trace) -> Vector:
        """What a part with the need 'fit' learns from the requests of a trace, [memory_size]."""
        raise NotImplementedError(f"{type(self).__name__} states the need 'fit' and has no fit()")


@dataclass(frozen=True)
class Eviction(Part):
    """Which resident expert makes room. The engine evicts the lowest (priority, layer, expert) not shielded."""

    static: ClassVar[bool] = False
    """True for a placement that never changes: it starts filled, and every miss passes by the cache."""
    after_step: ClassVar[bool] = False
    """True if what stays is decided over a layer step as a whole: of the residents and what the step executes on the
    GPU those of the highest priority stay, once ``touch`` has set it for both; the others leave, an expert of the same
    step as soon as it has run, or stream past the cache. ``bypass`` is not asked then."""

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

    def foresees(self) -> bool:
        """True if ``predict`` is also called as ``layer`` -1 at the begin of a step that verifies drafts, for its first
        layers while the draft is at work. Nothing of a layer is loaded then, and the prefetch rule has to know it."""
        return False


@dataclass(frozen=True)
class Prefetch(Part):
    """What to fetch early: writes ``prefetch_layer``, ``prefetch_expert``, ``num_prefetch`` in the order to fetch."""

    promotes: ClassVar[bool] = False
    """True for background admission: ``choose`` is called once a layer's experts have run, without a prediction, and
    may choose experts of any layer for later steps. Nothing protects them once they have arrived; what has not started
    when their layer comes is cancelled."""

    admits: ClassVar[bool] = False
    """True if ``choose``, asked as usual and without a prediction too, may also choose experts of this layer and of
    those before: background admission, as with ``promotes``, of what begins once the link is free of demand."""

    chooses_ahead: ClassVar[bool] = False
    """True if ``choose`` may be called for layer -1, ahead of a step: see ``Prediction.foresees``. The link's idle time
    is not known then: ``window_ns`` is 0."""

    def choose(self, state: State, memory: Vector) -> None:
        """Called after ``predict`` with ``num_prefetch`` = 0; experts already present or queued are skipped."""

    def only_on_idle_link(self) -> bool:
        """Whether what does not fit into the time in which the link is expected to stand idle is left out."""
        return False

    def chunks(self) -> int:
        """Pieces in which a prefetched expert is copied; demand copies go between two pieces. 1: all at once."""
        return 1


@dataclass(frozen=True)
class Substitution(Part):
    """Which experts to execute for those routed: writes ``state.executed_ids``, which starts as a copy of ``ids``.

    May also mark experts in ``state.degraded``: if such an expert is missing, a low-precision copy of it is fetched.
    """

    def band(self) -> float | None:
        """alpha, if it needs scores down to (1 - alpha) * S_{k+1}, where S_{k+1} is the highest outside the top k."""
        return None

    def low_precision_bits(self) -> float | None:
        """Bits per weight of the copies of degraded experts, for rules with the need 'low_precision'."""
        return None

    def substitute(self, state: State, memory: Vector) -> None:
        """Sees the whole batch at once; must not give one token the same expert twice."""


@dataclass(frozen=True)
class Assignment(Part):
    """Who supplies each missing expert, in which order: writes ``state.side`` and ``state.order``.

    Both start as: everything over the link, in order of the demand.
    """

    takes_late: ClassVar[bool] = False
    """True if experts that are still on the link count as missing, whatever the runtime does: no copy is awaited."""

    def assign(self, state: State, memory: Vector) -> None:
        """Called once per layer step that misses something."""


@dataclass(frozen=True)
class Allocation:
    """How many slots each layer gets, decided once before a run. This one: as many for every layer."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """'fit' if it learns from requests that are not replayed."""
    uniform: ClassVar[bool] = True
    """False for a rule that may give layers different numbers: it wants a pool for each layer."""

    def slots(self, total: int, num_experts: int, others: Trace | None, size: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of every layer, [L] int64: at least 1, at most ``num_experts``, ``total`` together.

        ``others``: the requests to learn from; ``size`` [L]: bytes of one expert of each layer. Here what does not
        divide goes to the first layers, one slot each. Raises: UserError where ``total`` does not suffice or exceeds
        all experts.
        """
        check_total(total, size.size, num_experts)
        return total // size.size + (np.arange(size.size) < total % size.size).astype(np.int64)


def check_total(total: int, num_layers: int, num_experts: int) -> None:
    """Raises UserError where ``total`` slots cannot give every layer at least one and at most all its experts."""
    if not num_layers <= total <= num_layers * num_experts:
        raise UserError(
            f"cache capacity of {total} slots in all: {num_layers} layers of {num_experts} experts need at least "
            f"{num_layers} and use at most {num_layers * num_experts}"
        )


@dataclass(frozen=True)
class Policy:
    """A named composition of the five parts, and how the capacity is split over the layers (``allocation``).

    ``residency``: 'cache' (the configured capacity), 'all' (every expert has a slot and starts resident: a bound) or
    'none' (no slots: every expert is fetched for each layer step and kept nowhere: the other bound).
    ``write_back``: 'none' (the host keeps every expert), 'serial' (a victim is copied home before its replacement
    comes) or 'overlap' (both directions at once; the link is free again when both are done). ``scope`` ('layer' or
    'global') and ``start`` ('cold', 'warm' or 'profile') of the cache are what the policy is meant for; a run may ask
    for others. ``runtime``: the software that it was published with, by its name in `conf/runtime`.
    """

    name: str
    eviction: Eviction
    prediction: Prediction
    prefetch: Prefetch
    substitution: Substitution
    assignment: Assignment
    residency: str = "cache"
    write_back: str = "none"
    allocation: Allocation = field(default_factory=Allocation)
    scope: str = "layer"
    start: str = "cold"
    runtime: str | None = None

    def __post_init__(self) -> None:
        if self.residency not in ("cache", "all", "none"):
            raise UserError(f"policy.residency={self.residency}: must be cache, all or none")
        if self.write_back not in ("none", "serial", "overlap"):
            raise UserError(f"policy.write_back={self.write_back}: must be none, serial or overlap")
        if self.scope not in ("layer", "global"):
            raise UserError(f"policy.scope={self.scope}: must be layer or global")
        if self.start not in ("cold", "warm", "profile"):
            raise UserError(f"policy.start={self.start}: must be cold, warm or profile")

    def parts(self) -> tuple[Part, ...]:
        return (self.eviction, self.prediction, self.prefetch, self.substitution, self.assignment)

    def needs(self) -> dict[Need, str]:
        """What the parts need -> the class name of the part that needs it (of the last one, if several do)."""
        stated = [(type(self.allocation).__name__, self.allocation.needs)]
        stated += [(type(part).__name__, part.all_needs()) for part in self.parts()]
        return {need_named(need, rule): rule for rule, needs in stated for need in sorted(needs)}
