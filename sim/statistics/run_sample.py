"""What statistics need of one run: values of its metrics, and those values in every draw of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.metrics.registry import Quantity, quantity_of
from sim.statistics.bootstrap import DRAWS, SEED, Vector, drawn_quantiles, drawn_sums, interval, quotient
from sim.statistics.calibration_error import calibration_draws, sensitivities


@dataclass(frozen=True)
class Run:
    """What a comparison needs of one run.

    `blocks`: one row per (block, phase) as ``sim.metrics.block_sums`` makes it; `requests`: one row per request with
    `group` and its times. `replayed` names the requests: trace hash and batch size. `errors`: relative standard error
    of figures of the hardware file, where it was calibrated; `hardware` names that machine.
    """

    series: str
    blocks: pd.DataFrame
    requests: pd.DataFrame
    replayed: tuple[str, int] = ("", 1)
    hardware: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def _names(self) -> NDArray[np.int64]:
        return np.unique(self.blocks["group"].to_numpy(np.int64))

    def groups(self) -> NDArray[np.int64]:
        """Names of the blocks, ascending."""
        return self._names

    @cached_property
    def sums(self) -> dict[str, Vector]:
        """Every column of `blocks` as [2, B]: by phase and block."""
        phases = self.blocks["phase"].to_numpy(np.int64)
        places = phases * len(self._names) + np.searchsorted(self._names, self.blocks["group"].to_numpy(np.int64))
        cells = 2 * len(self._names)
        return {
            str(name): np.bincount(places, self.blocks[name].to_numpy(np.float64), cells).astype(float).reshape(2, -1)
            for name in self.blocks
            if name not in ("group", "phase")
        }


def block_ratio(run: Run, quantity: Quantity) -> tuple[Vector, Vector]:
    """Numerator and denominator of a quantity of every block, [B] each; NaN where the run does not know it."""
    if quantity.request_time is not None:
        return _request_sums(run, quantity.request_time)
    metric = quantity.metric
    if not all(name in run.sums for name in (*metric.above, *metric.below)):
        return np.full(len(run.groups()), np.nan), np.full(len(run.groups()), np.nan)
    phases = list(quantity.phases)
    above, below = (
        np.sum([run.sums[name][phases].sum(axis=0) for name in names], axis=0) for names in (metric.above, metric.below)
    )
    return above / metric.divisor, below


def _request_sums(run: Run, name: str) -> tuple[Vector, Vector]:
    values, places = _request_values(run, name)
    blocks = len(run.groups())
    if not values.size:
        return np.full(blocks, np.nan), np.full(blocks, np.nan)
    sums, counts = np.bincount(places, values, blocks), np.bincount(places, minlength=blocks)
    return sums.astype(np.float64), counts.astype(np.float64)


def _request_values(run: Run, name: str) -> tuple[Vector, NDArray[np.int64]]:
    """Known values of a time of requests, and the block of each."""
    if name not in run.requests:
        return np.empty(0), np.empty(0, np.int64)
    known = run.requests[run.requests[name].notna()]
    return known[name].to_numpy(np.float64), np.searchsorted(run.groups(), known["group"].to_numpy(np.int64))


def value_of(run: Run, name: str) -> float:
    """The quantity itself; NaN where the run does not know it."""
    quantity = quantity_of(name)
    if quantity.quantile is not None and quantity.request_time is not None:
        values, _ = _request_values(run, quantity.request_time)
        return float(np.quantile(values, quantity.quantile)) if values.size else float("nan")
    above, below = block_ratio(run, quantity)
    return float(quotient(above.sum(keepdims=True), below.sum(keepdims=True))[0])


def draws_of(run: Run, name: str, draws: int = DRAWS, seed: int = SEED) -> Vector:
    """The quantity in every draw of the blocks, [draws]; times also vary as the figures they rest on are uncertain."""
    quantity = quantity_of(name)
    if quantity.quantile is not None and quantity.request_time is not None:
        values, places = _request_values(run, quantity.request_time)
        drawn = drawn_quantiles(values, places, len(run.groups()), quantity.quantile, draws, seed)
    else:
        sums = drawn_sums(np.stack(block_ratio(run, quantity), axis=1), draws, seed)
        drawn = quotient(sums[:, 0], sums[:, 1])
    return _as_uncertain(run, quantity, drawn, draws, seed)


def _as_uncertain(run: Run, quantity: Quantity, drawn: Vector, draws: int, seed: int) -> Vector:
    """The draws of a time with the error of the figures it rests on, where that is known."""
    if not quantity.is_time or not run.errors:
        return drawn
    effects = sensitivities(run.blocks, quantity, run.errors)
    return drawn * (1.0 + calibration_draws(effects, run.hardware, draws, seed))


def intervals(run: Run, names: Sequence[str], draws: int = DRAWS, seed: int = SEED) -> dict[str, tuple[float, float]]:
    """95 % interval of each mean or ratio; NaN where the run does not know it or has fewer than two blocks."""
    quantities = [quantity_of(name) for name in names]
    ratios = np.stack([block_ratio(run, quantity) for quantity in quantities])  # [M, 2, B]
    # All at once: the draws are the same.
    sums = drawn_sums(np.ascontiguousarray(ratios.reshape(2 * len(names), len(run.groups())).T), draws, seed)
    bounds = {}
    for i, quantity in enumerate(quantities):
        drawn = _as_uncertain(run, quantity, quotient(sums[:, 2 * i], sums[:, 2 * i + 1]), draws, seed)
        bounds[quantity.name] = interval(drawn, len(run.groups()))
    return bounds
