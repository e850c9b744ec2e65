"""How often a cache of so many slots is hit: replays of routing that is drawn from a card of the model's family."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from policies.state import DECODE
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.cards.card import Card, card_names, load_card
from sim.cards.synthesis import Wish, synthetic_trace
from sim.config import RunConfig
from sim.engine.clocks.timeline_log import LOG_OUTCOME
from sim.engine.decision.counters import HIT
from sim.forecast.models import ForecastModel, family_of
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import load_runtime
from traces.errors import UserError
from traces.format.trace import Trace

REQUESTS, TOKENS = 2, 128
"""Drawn and replayed, each request on a cache that the other one left; as many again teach static placements."""
DEMO = "demo"
OWN_ERROR, FEW_ERROR, BORROWED_ERROR = 0.035, 0.08, 0.2
"""Of a hit rate: by a card of many requests in the model's own shape (.7 and 3.5 points were missed), by one of few
requests, of a published curve (5.2 points) or of another shape, and by one of another family."""
FEW_REQUESTS = 8
ALIKE = 0.01
"""Sum of logarithms of layers, experts and top_k over the model's, below which shapes are the same."""


@dataclass(frozen=True, slots=True)
class Hits:
    """Share of demanded experts that are resident, and ``layers`` [top_k + 1]: share of layers that miss so many."""

    rate: float
    layers: tuple[float, ...]

    def fewer(self, error: float) -> Hits:
        """The same where the rate is lower by ``error``, at most by all: each hit is a miss with the same chance."""
        most = len(self.layers) - 1
        chance = min(1.0, error / self.rate) if self.rate else 0.0
        layers = np.zeros(most + 1)
        for missed, share in enumerate(self.layers):
            hits = most - missed
            for more in range(hits + 1):
                layers[missed + more] += share * math.comb(hits, more) * chance**more * (1 - chance) ** (hits - more)
        return Hits(self.rate * (1 - chance), tuple(layers.tolist()))


def hits_of(replay: Replay, top_k: int) -> Hits:
    """Replay and count, by lookup, what decode tokens miss: a layer that misses many waits, others have time to spare.

    A lookup is one of a decode step where it begins within one.
    """
    counted, start = np.zeros(top_k + 1), 0
    for result in replay.blocks():
        log = replay.engine.take_log()
        ends = start + np.cumsum(result.latency_ns + result.block.pause_ns)
        start = int(ends[-1])
        outcomes = log[log[:, 0] == LOG_OUTCOME]
        at, lookup = np.unique(outcomes[:, 2], return_inverse=True)
        missed = np.bincount(lookup, weights=outcomes[:, -1] != HIT, minlength=len(at)).astype(np.int64)
        step = np.minimum(np.searchsorted(ends, at, side="right"), len(ends) - 1)
        decodes = result.block.phase[step] == DECODE
        counted += np.bincount(missed[decodes], minlength=top_k + 1)[: top_k + 1]
    layers = counted / counted.sum()
    return Hits(float(1 - layers @ np.arange(top_k + 1) / top_k), tuple(layers.tolist()))


@dataclass(slots=True)
class Routing:
    """Routing of a card in the shape of a model."""

    card: Card
    card_name: str
    borrowed: bool
    model: ForecastModel
    found: dict[tuple[str, int], Hits] = field(default_factory=dict)
    drawn: Trace | None = None

    @property
    def stretched(self) -> bool:
        """Whether the card is of a model of another shape."""
        own, sizes = self.card.geometry, self.model.dimensions
        return (sizes.num_layers, sizes.num_experts, sizes.top_k) != (own.num_layers, own.num_experts, own.top_k)

    @property
    def hit_error(self) -> float:
        """Standard error of a hit rate: ESTIMATED from what cards miss of held-out requests (docs/cards.md)."""
        if self.borrowed:
            return BORROWED_ERROR
        few = self.card.sample is None or self.card.sample.requests < FEW_REQUESTS
        return FEW_ERROR if few or self.stretched else OWN_ERROR

    def said(self) -> str:
        """What the hits rest on."""
        own, sizes = self.card.geometry, self.model.dimensions
        text = f"{self.card_name} ({self.card.label}), drawn SYNTHETIC"
        shape = (sizes.num_layers, sizes.num_experts, sizes.top_k)
        if self.stretched:
            text += (
                f"; stretched from {own.num_layers} layers, top {own.top_k} of {own.num_experts}, to {shape[0]} layers,"
                f" top {shape[2]} of {shape[1]}: ESTIMATED"
            )
        text += f"; hits known within {100 * self.hit_error:.0f} points"
        if self.borrowed:
            text = f"BORROWED from another family: {text}"
        return text

    def hits(self, policy: str, slots: int, runtime: str) -> Hits:
        """Of decode tokens under a policy with so many slots a layer."""
        key = (policy, slots)
        if key not in self.found:
            self.found[key] = self._replayed(policy, slots, runtime)
        return self.found[key]

    def hit_rate(self, policy: str, slots: int, runtime: str) -> float:
        """Share of demanded experts of decode tokens that are resident."""
        return self.hits(policy, slots, runtime).rate

    def _replayed(self, policy: str, slots: int, runtime: str) -> Hits:
        trace = self._trace()
        sizes = replace(trace.geometry, expert_bytes=(1 << 20,) * trace.num_layers)
        rule = load_policy(policy)
        start = None if rule.start == "profile" or rule.eviction.static else "warm"
        setup = DeviceSetup(
            rule,
            Machine(NEUTRAL, load_runtime(runtime)),
            CacheConfig(slots_per_layer=slots, start=start),
            RunConfig(engine="compiled", timeline=True),
        )
        replayed, others = trace.select_requests(REQUESTS), trace.select_requests(REQUESTS, REQUESTS)
        replay = assemble(replayed, setup, sizes, others=others)
        return hits_of(replay, trace.top_k)

    def _trace(self) -> Trace:
        if self.drawn is None:
            sizes = self.model.dimensions
            wish = Wish(
                self.card_name, 2 * REQUESTS, TOKENS, 0, sizes.num_layers, sizes.num_experts, sizes.top_k
            )  # fmt: skip
            self.drawn = synthetic_trace(wish)
        return self.drawn


NEUTRAL = Hardware(
    "any machine", 2**62, 1e12, 1e14, 1e-6, 2e10, pageable_bytes_per_s=1e10, cpu_memory_bytes_per_s=5e10, cpu_cores=8
)
"""Hits of the rules that are replayed hardly depend on the times."""


@cache
def _card(name: str) -> Card:
    """A card, read once."""
    return load_card(name)


def routing_for(model: ForecastModel, card: str | None, borrow: str | None) -> Routing | None:
    """Routing of the model's family, or what `card=` or `borrow=` names; None where there is no card of the family.

    Raises: UserError for both, for a card that is not known, and for `card=` of another family.
    """
    if card is not None and borrow is not None:
        raise UserError(f"card={card} and borrow={borrow}: give one of them")
    if borrow is not None and borrow not in card_names() and not borrow.endswith((".yaml", ".yml")):
        names = ", ".join(name for name in card_names() if name != DEMO)
        raise UserError(f"borrow={borrow}: must be one of {names}, or the path of a *.yaml file")
    if borrow is not None:
        return _routing(borrow, model, borrowed=family_of(_card(borrow).model) != model.family)
    if card is not None:
        found = _card(card)
        if family_of(found.model) != model.family:
            raise UserError(
                f"card={card} is of {found.model}, another family than {model.dimensions.name}: borrow={card} takes it "
                "and says so"
            )
        return _routing(card, model, borrowed=False)
    alike = [name for name in card_names() if name != DEMO and family_of(_card(name).model) == model.family]
    return _routing(min(alike, key=lambda name: _unlike(name, model)), model, borrowed=False) if alike else None


def _routing(name: str, model: ForecastModel, borrowed: bool) -> Routing:
    return Routing(_card(name), name, borrowed, model)


def _unlike(name: str, model: ForecastModel) -> tuple[bool, bool, float]:
    """How far a card is from the model: of its own shape, then measured, then near in shape."""
    card, sizes = _card(name), model.dimensions
    pairs = (
        (card.geometry.num_layers, sizes.num_layers),
        (card.geometry.num_experts, sizes.num_experts),
        (card.geometry.top_k, sizes.top_k),
    )
    far = sum(abs(math.log(a / b)) for a, b in pairs)
    return far > ALIKE, card.label != "MEASURED", far
