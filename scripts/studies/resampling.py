"""The bootstrap of the studies: documents or requests are drawn again, the same ones for everything compared."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def draw_blocks(blocks: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each block is drawn when as many are drawn with replacement, [draws, blocks]."""
    return np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), draws)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval. Source: Efron and Tibshirani 1993, chapter 13."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def with_interval(name: str, value: float, drawn: NDArray[np.float64]) -> dict[str, float]:
    """A row's entries `name`, `name`.low and `name`.high."""
    low, high = interval(drawn)
    return {name: float(value), f"{name}.low": low, f"{name}.high": high}
