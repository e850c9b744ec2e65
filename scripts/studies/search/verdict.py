"""What a lead is worth: its interval over requests, whether it survives other requests, and whether there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.studies.search.replays import Lead
from sim.statistics.bootstrap import Estimate, estimate

DRAWS = 1000
MARGIN = 0.02
"""A candidate whose whole interval of validation / training is above 1 + this has learned the training requests."""


def ratio(found: Sequence[Lead]) -> Estimate:
    """Geometric mean over places of its time over the fastest rival's, with its interval over blocks of requests."""
    return geometric([(lead.ours.time_ns, lead.theirs.time_ns) for lead in found])


def paired(ours: Sequence[Lead], theirs: Sequence[Lead]) -> Estimate:
    """... of one policy's time over another's at the same places on the same requests."""
    return geometric([(one.ours.time_ns, other.ours.time_ns) for one, other in zip(ours, theirs, strict=True)])


def geometric(pairs: Sequence[tuple[Any, Any]]) -> Estimate:
    """Geometric mean of sum / sum over pairs of columns [blocks]."""

    def mean(sums: Any) -> Any:
        return np.exp(np.mean(np.log(sums[..., 0::2] / sums[..., 1::2]), axis=-1))

    return estimate(np.stack([column for pair in pairs for column in pair], axis=1), mean, DRAWS)


@dataclass(frozen=True, slots=True)
class Gap:
    """Validation over training, of a ratio: above 1, the lead is smaller on requests that were not searched."""

    value: float
    low: float
    high: float

    @property
    def overfit(self) -> bool:
        return self.low > 1 + MARGIN


def gap(training: Estimate, validation: Estimate) -> Gap:
    """The requests are independent: errors add in quadrature, on the logarithms."""
    value = float(np.log(validation.value / training.value))
    errors = [np.log(one.high / one.low) / 2 for one in (training, validation) if one.low > 0 and not np.isnan(one.low)]
    side = float(np.hypot(*errors)) if len(errors) == 2 else float("inf")
    return Gap(float(np.exp(value)), float(np.exp(value - side)), float(np.exp(value + side)))


def sentence(found: Estimate, what: str) -> str:
    """Whether there is a difference, with its interval."""
    change, low, high = (100 * (number - 1) for number in (found.value, found.low, found.high))
    bounds = f"{change:+.1f} % [{low:+.1f}, {high:+.1f}]"
    if np.isnan(low) or low <= 0 <= high:
        return f"null result: {what} is not distinguishable, {bounds}"
    return f"{what} takes {'less' if change < 0 else 'more'} time, {bounds}"
