"""Paired cluster bootstrap: whole documents are resampled, the same ones for both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.statistics import bootstrap
from sim.statistics.bootstrap import Statistic

DRAWS, SEED = 4000, 0
FEWEST = 6
"""Documents from which on the bootstrap covers (tests/sim/statistics/test_coverage.py); of fewer no interval is given:
it would leave what a share or a count can be."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; None where there are fewer than `FEWEST` documents."""

    value: float
    low: float | None
    high: float | None


def block_sums(columns: NDArray[Any], blocks: Sequence[str]) -> NDArray[np.float64]:
    """Sums [B, C] of rows [N, C] over the blocks that name them, with the number of rows as one more column."""
    names, index = np.unique(np.asarray(blocks), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1] + 1))
    np.add.at(sums[:, :-1], index, np.asarray(columns, np.float64))
    np.add.at(sums[:, -1], index, 1.0)
    return sums


def estimate(sums: NDArray[np.float64], statistic: Statistic, draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """``statistic`` of the total of block sums [B, C], with its interval over resampled blocks."""
    found = bootstrap.estimate(sums, statistic, draws, seed)
    if len(sums) < FEWEST:
        return Estimate(found.value, None, None)
    return Estimate(found.value, *found.interval)


def mean_of(column: int) -> Statistic:
    """Mean of a column."""
    return lambda sums: sums[..., column] / sums[..., -1]


def perplexity_ratio(base: int, changed: int) -> Statistic:
    """Perplexity by column ``changed`` over that by ``base``, both -ln p."""
    return lambda sums: np.exp((sums[..., changed] - sums[..., base]) / sums[..., -1])


def difference(base: int, changed: int) -> Statistic:
    """Mean of a column minus mean of another."""
    return lambda sums: (sums[..., changed] - sums[..., base]) / sums[..., -1]
