"""What statistics need of one run: values of its metrics, and those values in every draw of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.metrics.registry import Metric, metric_of
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


def block_ratio(run: Run, metric: Metric) -> tuple[Vector, Vector]:
    """Numerator and denominator of a metric of every block, [B] each; NaN where the run does not know it."""
    if metric.request_time is not None:
        return _request_sums(run, metric.request_time, run.groups())
    assert metric.ratio is not None
    found = []
    for names in (metric.ratio.above, metric.ratio.below):
        if any(name not in run.sums for name in names):
            return np.full(len(run.groups()), np.nan), np.full(len(run.groups()), np.nan)
        found.append(sum((run.sums[name][list(metric.phases)].sum(axis=0) for name in names), np.zeros(1)))
    return found[0] * metric.ratio.scale, found[1]


def _request_sums(run: Run, name: str, groups: NDArray[np.int64]) -> tuple[Vector, Vector]:
    values, places = _request_values(run, name, groups)
    if not values.size:
        return np.full(len(groups), np.nan), np.full(len(groups), np.nan)
    sums, counts = np.bincount(places, values, len(groups)), np.bincount(places, minlength=len(groups))
    return sums.astype(np.float64), counts.astype(np.float64)


def _request_values(run: Run, name: str, groups: NDArray[np.int64]) -> tuple[Vector, NDArray[np.int64]]:
    """Known values of a time of requests, and the block of each."""
    if name not in run.requests:
        return np.empty(0), np.empty(0, np.int64)
    known = run.requests[run.requests[name].notna()]
    return known[name].to_numpy(np.float64), np.searchsorted(groups, known["group"].to_numpy(np.int64))


def value_of(run: Run, name: str) -> float:
    """The metric itself; NaN where the run does not know it."""
    metric = metric_of(name)
    if metric.quantile is not None and metric.request_time is not None:
        values, _ = _request_values(run, metric.request_time, run.groups())
        return float(np.quantile(values, metric.quantile)) if values.size else float("nan")
    above, below = block_ratio(run, metric)
    return float(quotient(above.sum(keepdims=True), below.sum(keepdims=True))[0])


def draws_of(run: Run, name: str, draws: int = DRAWS, seed: int = SEED) -> Vector:
    """The metric in every draw of the blocks, [draws]; times also vary as the figures they rest on are uncertain."""
    metric = metric_of(name)
    if metric.quantile is not None and metric.request_time is not None:
        values, places = _request_values(run, metric.request_time, run.groups())
        found = drawn_quantiles(values, places, len(run.groups()), metric.quantile, draws, seed)
    else:
        sums = drawn_sums(np.stack(block_ratio(run, metric), axis=1), draws, seed)
        found = quotient(sums[:, 0], sums[:, 1])
    return _as_uncertain(run, metric, found, draws, seed)


def _as_uncertain(run: Run, metric: Metric, found: Vector, draws: int, seed: int) -> Vector:
    """The draws of a time with the error of the figures it rests on, where that is known."""
    if not metric.is_time or not run.errors:
        return found
    effects = sensitivities(run.blocks, metric, run.errors)
    return found * (1.0 + calibration_draws(effects, run.hardware, draws, seed))


def intervals(run: Run, names: Sequence[str], draws: int = DRAWS, seed: int = SEED) -> dict[str, tuple[float, float]]:
    """95 % interval of each metric; NaN where the run does not know it or has fewer than two blocks."""
    metrics = {name: metric_of(name) for name in names}
    ratios = {name: metric for name, metric in metrics.items() if metric.quantile is None}
    found: dict[str, Vector] = {}
    if ratios:  # all at once: the draws are the same
        pairs = np.stack([block_ratio(run, metric) for metric in ratios.values()])  # [M, 2, B]
        sums = drawn_sums(np.ascontiguousarray(pairs.reshape(2 * len(ratios), -1).T), draws, seed)
        for i, (name, metric) in enumerate(ratios.items()):
            drawn = quotient(sums[:, 2 * i], sums[:, 2 * i + 1])
            found[name] = _as_uncertain(run, metric, drawn, draws, seed)
    blocks = len(run.groups())
    return {
        name: interval(found[name] if name in found else draws_of(run, name, draws, seed), blocks) for name in names
    }
