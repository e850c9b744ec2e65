"""All resampling: what is drawn, and intervals from the draws.

Three ways to draw: whole blocks (clusters) with replacement; the same through multinomial counts, another sequence of
random numbers; consecutive elements of a series that depend on each other. Two intervals: percentiles widened for few
blocks, and plain percentiles.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS, SEED = 1000, 0
COVERAGE, SIGNIFICANCE = 0.95, 0.05
"""Of intervals; the p value below which a difference is called one."""
CELLS = 1 << 22
"""Draws times blocks that are held at once."""

Vector = NDArray[np.float64]


def interval(draws: Vector, num_blocks: int) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws, widened for few blocks; NaN for fewer than two blocks.

    The percentiles are Phi(-+ sqrt(n / (n - 1)) t) with the 97.5 % quantile t of Student's distribution of n - 1
    degrees: without it the interval is too narrow by about 1 / n and covers less than 95 %.
    Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap, "expanded percentile interval".
    """
    from scipy.special import ndtr, stdtrit  # scipy.stats would take a second to import

    known = draws[~np.isnan(draws)]
    if num_blocks < 2 or not known.size:
        return float("nan"), float("nan")
    tail = float(ndtr(-np.sqrt(num_blocks / (num_blocks - 1)) * stdtrit(num_blocks - 1, (1 + COVERAGE) / 2)))
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def percentile_interval(draws: Any, coverage: float = COVERAGE) -> tuple[Any, Any]:
    """Plain percentile interval of draws [draws, ...], not widened: with few blocks it covers less than it says.

    Source: percentile bootstrap (Efron and Tibshirani 1993, chapter 13).
    """
    tail = round((1 - coverage) / 2, 12)
    low, high = np.quantile(draws, (tail, 1 - tail), axis=0)
    return low.tolist(), high.tolist()


def request_interval(
    numerator: Vector, denominator: Vector, draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """95 % interval of sum(numerator) / sum(denominator) when whole blocks are drawn again with replacement.

    Both [B], one value per block. NaN for fewer than two blocks.
    Source: percentile bootstrap (Efron and Tibshirani 1993, chapter 13), widened as `interval` says.
    """
    sums = drawn_sums(np.stack([numerator, denominator], axis=1).astype(np.float64), draws, seed)
    return interval(quotient(sums[:, 0], sums[:, 1]), len(numerator))


def drawn_sums(values: Vector, draws: int = DRAWS, seed: int = SEED) -> Vector:
    """Sums of `values` [B, M] over B blocks drawn with replacement, [draws, M]; the same draws for the same B."""
    blocks = len(values)
    if not blocks:
        return np.zeros((draws, values.shape[1]))
    size = max(1, CELLS // blocks)
    pieces = [_counts(blocks, min(size, draws - first), seed, first) @ values for first in range(0, draws, size)]
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def multinomial_counts(blocks: int, draws: int, seed: int = SEED) -> NDArray[np.int64]:
    """How often each block is drawn, [draws, blocks]."""
    return np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), draws)


def neighbours(
    rng: np.random.Generator, length: int, size: int, count: int, circular: bool = False
) -> NDArray[np.int64]:
    """Indices of ``count`` runs of ``size`` neighbours of a series, [count * size]: its elements depend on each other.

    ``circular``: the series goes on at its beginning, so that every element is drawn equally often.
    Source: moving blocks (Kuensch 1989, Annals of Statistics 17), circular blocks (Politis and Romano 1992).
    """
    starts = rng.integers(0, length if circular else length - size + 1, count)
    return np.asarray((starts[:, None] + np.arange(size)).reshape(-1) % length)


@lru_cache(maxsize=4)
def _counts(blocks: int, draws: int, seed: int, first: int) -> Vector:
    """How often each block is drawn, [draws, blocks]."""
    chosen = np.random.default_rng([seed, first]).integers(0, blocks, (draws, blocks))
    flat = (chosen + np.arange(draws)[:, None] * blocks).ravel()
    return np.bincount(flat, minlength=draws * blocks).reshape(draws, blocks).astype(np.float64)


def drawn_quantiles(
    values: Vector, places: NDArray[np.int64], blocks: int, share: float, draws: int, seed: int
) -> Vector:
    """Quantile of the values of the drawn blocks by linear interpolation, as numpy's default, [draws]."""
    if not values.size:
        return np.full(draws, np.nan)
    order = np.argsort(values, kind="stable")
    ordered, size = values[order], max(1, CELLS // max(blocks, values.size))
    quantiles = []
    for first in range(0, draws, size):
        counts = _counts(blocks, min(size, draws - first), seed, first)[:, places[order]]
        upto = counts.cumsum(axis=1)  # how many drawn values are at most the i-th
        at = np.maximum(upto[:, -1] - 1, 0) * share
        low, high = (_kth(ordered, upto, np.floor(at)), _kth(ordered, upto, np.ceil(at)))
        quantiles.append(np.where(upto[:, -1] > 0, low + (high - low) * (at - np.floor(at)), np.nan))
    return np.concatenate(quantiles)


def _kth(ordered: Vector, upto: Vector, rank: Vector) -> Vector:
    """The drawn value of each draw's rank, counted from 0."""
    place = (upto <= rank[:, None]).sum(axis=1)
    return np.asarray(ordered[np.minimum(place, len(ordered) - 1)])


def quotient(above: Vector, below: Vector) -> Vector:
    """above / below, NaN where there is nothing to divide by."""
    divisible = (below != 0) & ~np.isnan(below)
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=divisible), np.float64)
