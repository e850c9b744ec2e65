"""Times and lost gate mass of policies at places; what a policy is held against there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.state import DECODE
from scripts.studies.search.data import GROUP, Source
from scripts.studies.search.places import Place
from sim.assembly.build import make_policy
from sim.assembly.catalogue import load_policy, policy_config
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import StepTable

Vector = NDArray[np.float64]
REFERENCE, WITHOUT = "importance", "importance without prefetch"
"""The rival whose loss is the bound; the same without what it fetches early."""
RIVALS = (REFERENCE, WITHOUT, "hybrimoe_paper", "dali", "hybrimoe_true_costs")
THREADS = 4
"""Places replayed at once: compiled replays share cores."""
LEAST_LOSS = 1e-4
"""Losses below count as this much where they are compared."""
PolicyAt = Callable[[Place], Policy]
"""The policy at a place, whose alpha is the place's."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Decode steps of one replay: times and tokens by block of ``GROUP`` requests, the mean share of mass lost."""

    time_ns: Vector
    tokens: Vector
    lost: float

    @property
    def tpot_ns(self) -> float:
        return float(self.time_ns.sum() / self.tokens.sum())


@cache
def rival(name: str, alpha: float) -> Policy:
    """A policy of the library with the place's alpha; ``WITHOUT`` is `importance` that fetches nothing early."""
    config = policy_config(REFERENCE if name == WITHOUT else name)
    config.alpha = alpha
    policy = make_policy(config)
    if name == WITHOUT:
        policy = replace(policy, name=WITHOUT, prediction=NoPrediction(), prefetch=NoPrefetch())
    return policy


def shipped(name: str) -> PolicyAt:
    """A policy of the library at a place. Raises: UserError where there is none of that name."""
    load_policy(name)
    return lambda place: rival(name, place.alpha)


def without_lookahead(policy: Policy) -> Policy:
    """The policy on a trace that recorded no lookahead: of what it copies early, background admission is left."""
    prefetch = policy.prefetch if policy.prefetch.admits else NoPrefetch()
    return replace(policy, prediction=NoPrediction(), prefetch=prefetch)


def measure(policy: Policy, source: Source, place: Place, draw: int | None = None) -> Measured:
    """Replay a source at a place, or on a plausible machine of it."""
    if source.trace.lookahead_before is None:
        policy = without_lookahead(policy)
    geometry = source.geometry(place.model)
    run = RunConfig(batch_size=place.batch, engine="compiled")
    setup = DeviceSetup(policy, place.machine(geometry, draw), CacheConfig(fraction=place.fraction), run)
    table = StepTable(assemble(source.trace, setup, geometry)).run()
    columns: dict[str, Any] = table.columns()
    decode = columns["phase"] == DECODE
    blocks = columns["group"][decode] // (GROUP // place.batch)
    tokens = columns["num_tokens"][decode]

    def by_block(values: Any) -> Vector:
        return np.bincount(blocks, weights=values.astype(np.float64)).astype(np.float64)

    lost = table.metrics()["decode.lost_gate_mass"]
    return Measured(by_block(columns["latency_ns"][decode] * tokens), by_block(tokens), float(lost or 0.0))


@dataclass(slots=True)
class Rivals:
    """What the rivals do at places, remembered."""

    known: dict[tuple[str, int, Place, int | None], dict[str, Measured]] = field(default_factory=dict)

    def at(self, source: Source, place: Place, draw: int | None = None) -> dict[str, Measured]:
        """Name -> replay of the source there."""
        key = (source.name, source.trace.num_requests, place, draw)
        if key not in self.known:
            self.known[key] = {name: measure(rival(name, place.alpha), source, place, draw) for name in RIVALS}
        return self.known[key]


def best_of(rivals: dict[str, Measured]) -> str:
    """The fastest."""
    return min(rivals, key=lambda name: rivals[name].tpot_ns)


@dataclass(frozen=True, slots=True)
class Lead:
    """A policy at one place beside the fastest of its rivals."""

    place: Place
    ours: Measured
    best: str
    theirs: Measured
    allowed: float
    """What the reference loses there."""

    @property
    def ratio(self) -> float:
        """Its time over that of the fastest rival."""
        return self.ours.tpot_ns / self.theirs.tpot_ns

    @property
    def loss_ratio(self) -> float:
        """What it loses over what the reference does."""
        return max(self.ours.lost, LEAST_LOSS) / max(self.allowed, LEAST_LOSS)


def leads(
    policy_at: PolicyAt, source: Source, places: Sequence[Place], rivals: Rivals, draw: int | None = None
) -> list[Lead]:
    """A policy at places, several at once."""

    def at(place: Place) -> Lead:
        others = rivals.at(source, place, draw)
        best = best_of(others)
        ours = measure(policy_at(place), source, place, draw)
        return Lead(place, ours, best, others[best], others[REFERENCE].lost)

    first = [at(place) for place in places[:1]]  # compiles the rules, once
    with ThreadPoolExecutor(THREADS) as threads:
        return [*first, *threads.map(at, places[1:])]


def mean_ratio(found: Sequence[Lead]) -> float:
    """Geometric mean of the times over those of the fastest rivals."""
    return float(np.exp(np.mean([np.log(lead.ratio) for lead in found])))
