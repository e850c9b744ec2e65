"""What a lead is worth: its interval over requests, whether it survives other requests, and whether there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from scripts.studies.search.replays import Lead
from sim.statistics.bootstrap import Estimate, estimate

DRAWS, PERMUTATIONS = 1000, 9999
MARGIN, LEVEL = 0.02, 0.05
"""A candidate whose validation / training is above 1 + margin at this level has learned the training requests."""


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
    p: float
    """How often a gap so far above the margin comes about where blocks of both kinds are exchanged."""

    @property
    def overfit(self) -> bool:
        return self.p <= LEVEL


def gap(training: Sequence[Lead], validation: Sequence[Lead]) -> Gap:
    """One-sided permutation test of the mean log ratio of blocks of requests: exact where few can be exchanged, so that
    four blocks a side suffice (p is at least 1 / 70)."""
    ours, others = logs_of(training), logs_of(validation)
    value = float(others.mean() - ours.mean())
    test = permutation_test(
        (others - np.log1p(MARGIN), ours), lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        alternative="greater", vectorized=True, n_resamples=PERMUTATIONS, rng=np.random.default_rng(0),
    )  # fmt: skip
    return Gap(float(np.exp(value)), float(test.pvalue))


def logs_of(found: Sequence[Lead]) -> NDArray[np.float64]:
    """Of each block of requests the mean over places of log(time / time of the fastest rival)."""
    logs = np.array([np.log(lead.ours.time_ns / lead.theirs.time_ns) for lead in found])
    return np.asarray(logs.mean(axis=0), np.float64)


def sentence(found: Estimate, what: str) -> str:
    """Whether there is a difference, with its interval."""
    change, low, high = (100 * (number - 1) for number in (found.value, found.low, found.high))
    bounds = f"{change:+.1f} % [{low:+.1f}, {high:+.1f}]"
    if np.isnan(low) or low <= 0 <= high:
        return f"null result: {what} is not distinguishable, {bounds}"
    return f"{what} takes {'less' if change < 0 else 'more'} time, {bounds}"
