"""Rows of the studies: a value with its bootstrap interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.statistics.bootstrap import percentile_interval


def with_interval(name: str, value: float, drawn: NDArray[np.float64]) -> dict[str, float]:
    """A row's entries `name`, `name`.low and `name`.high."""
    low, high = percentile_interval(drawn)
    return {name: float(value), f"{name}.low": low, f"{name}.high": high}
