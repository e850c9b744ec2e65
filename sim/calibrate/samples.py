"""Samples with the load of the machine, the gate that drops disturbed ones, and the standard error of their mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.execution.load import Load, Snapshot

MIN_SAMPLES = 3
"""Samples that every parameter rests on at least, however noisy the machine is."""


@dataclass(slots=True)
class Sample:
    """One measurement: ``values`` per quantity, the round in which it was taken, the load of the machine meanwhile."""

    kind: str
    round: int
    values: dict[str, float] = field(default_factory=dict)
    load: Load | None = None

    @property
    def disturbance(self) -> float:
        """Share of all cores that others had; 0 where the system does not say."""
        share = None if self.load is None else self.load.disturbance
        return 0.0 if share is None else share


@contextmanager
def sampled(kind: str, number: int) -> Iterator[Sample]:
    """A sample that is being taken: fill its values inside."""
    sample, before = Sample(kind, number), Snapshot.now()
    yield sample
    sample.load = Load.between(before, Snapshot.now())


@dataclass(frozen=True, slots=True)
class Gated:
    """The samples of a kind that count. ``quiet``: all of them were taken while the machine was quiet enough."""

    kept: tuple[Sample, ...]
    dropped: int
    quiet: bool

    def values(self, name: str) -> NDArray[np.float64]:
        """One quantity of all samples that have it."""
        return np.array([sample.values[name] for sample in self.kept if name in sample.values])

    def rounds(self, name: str) -> NDArray[np.int64]:
        """The round of each value."""
        return np.array([sample.round for sample in self.kept if name in sample.values], np.int64)

    def mean(self, name: str) -> Estimate:
        """The mean of one quantity, with its spread."""
        return estimate(self.values(name), self.rounds(name))


def gate(samples: list[Sample], kind: str, max_disturbance: float) -> Gated:
    """Drop samples taken beside more foreign load than allowed; if too few are left, keep the least disturbed ones.

    Samples that were taken together share one load and are kept or dropped together.
    """
    taken = [sample for sample in samples if sample.kind == kind]
    shares = sorted({id(sample.load): sample.disturbance for sample in taken}.values())
    limit = max_disturbance
    quiet = sum(share <= limit for share in shares) >= min(MIN_SAMPLES, len(shares)) and bool(taken)
    if not quiet and shares:
        limit = shares[min(MIN_SAMPLES, len(shares)) - 1]
    kept = [sample for sample in taken if sample.disturbance <= limit]
    return Gated(tuple(kept), len(taken) - len(kept), quiet)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its spread: ``std`` of single samples, ``error`` the standard error of the mean."""

    mean: float
    std: float
    error: float
    count: int


def estimate(values: NDArray[np.float64], rounds: NDArray[np.int64]) -> Estimate:
    """The mean of samples taken in several rounds.

    The standard error is the larger of that of independent samples and that of the rounds' means: what drifts from one
    round to the next does not average out inside one. Unknown (NaN) for a single sample.
    """
    count = values.size
    if count == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    std = float(values.std(ddof=1)) if count > 1 else np.nan
    means = np.array([values[rounds == number].mean() for number in np.unique(rounds)])
    errors = [std / np.sqrt(count)]
    if means.size > 1:
        errors.append(float(means.std(ddof=1)) / np.sqrt(means.size))
    return Estimate(float(values.mean()), std, float(np.nanmax(errors)) if count > 1 else np.nan, count)
