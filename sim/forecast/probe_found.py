"""Figures that a probe finds, and samples of a rate with how quiet the machine was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim.calibrate.samples import Sample, gate, sampled

ROUNDS = 5
MAX_DISTURBANCE = 0.1
"""Share of all cores that others may have during a sample that counts."""


@dataclass(slots=True)
class Found:
    """Figures of a hardware file with sources and relative errors, and what no field of it holds."""

    figures: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def put(self, name: str, value: float, source: str, error: float | None = None) -> None:
        """Enter a figure."""
        self.figures[name], self.sources[name] = value, source
        if error is not None:
            self.uncertainty[name] = error


def measured(kind: str, once: Callable[[], float]) -> tuple[float, float, str]:
    """(median, relative standard error, words on how it was measured) of a rate over some rounds."""
    samples: list[Sample] = []
    for number in range(ROUNDS):
        with sampled(kind, number) as sample:
            sample.values["rate"] = once()
        samples.append(sample)
    kept = gate(samples, kind, MAX_DISTURBANCE)
    rates = kept.values("rate")
    error = max(0.02, float(rates.std(ddof=1) / rates.mean() / np.sqrt(rates.size)) if rates.size > 1 else 0.1)
    others = 100 * float(np.median([sample.disturbance for sample in samples]))
    quiet = "quiet" if kept.quiet else "NOT QUIET: the least disturbed samples"
    words = f"median of {rates.size} samples, others had {others:.0f} % of the cores, {quiet}"
    return float(np.median(rates)), error if kept.quiet else max(error, 0.15), words
