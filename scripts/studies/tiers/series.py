"""What a published series over several tiers is: its points, its machine, and how each point was run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STORAGE = "storage"
"""Name of a fitted figure: a factor on every rate of the machine's table."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a speed was measured, where its source says so."""

    prompt: int
    """Tokens of the prompt, one step; 0: none is simulated."""
    tokens: int
    """Decode steps."""
    timed_from: int
    """Decode steps before the clock counts."""
    start: str
    """``cold``: no expert is there; ``warm``: slots and host memory are full."""


STEADY = Protocol(0, 320, 160, "warm")
"""Where the source does not say: caches are full, and the first steps do not count."""


@dataclass(frozen=True, slots=True)
class Point:
    """A published speed and its place on the axis of the series."""

    label: str
    measured: float
    """Tokens per second."""
    slots: float
    """Share of the experts of a layer that have slots on the GPU; 0: none, whatever the policy."""
    calibrates: bool = False
    host_share: float | None = None
    """Share of all experts that lie in host memory; None: all."""
    stated_hits: float | None = None
    """Hit rate that the source states, printed beside the simulated one."""
    protocol: Protocol | None = None
    """None: as the series."""
    host_layers: int | None = None
    """As of the series, where points differ."""
    top_k: int | None = None
    """Experts of a token, where they are fewer than the model's."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one machine; ``fits`` are figures that its calibrating points decide, as many as these."""

    name: str
    source: str
    rows: tuple[str, ...]
    """Series of docs/validation/corpus/corpus.csv whose rows these are."""
    model: str
    """As a row of docs/validation/corpus/models.csv names it."""
    quantisation: str
    card: str
    hardware: str
    runtime: str
    policy: str
    points: tuple[Point, ...]
    fits: tuple[str, ...] = ()
    fitted_on: str = ""
    """Another series of the machine, whose figures this one begins with."""
    protocol: Protocol = STEADY
    until_hits: float | None = None
    """The source states a hit rate and not how many tokens were written: from an empty cache, as many as have it.

    FITTED, counted as a calibrating point."""
    host_layers: int | None = None
    """Layers whose experts are not in GPU memory for good; None: all."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Of the machine, where they differ from its files."""
    said: str = ""
