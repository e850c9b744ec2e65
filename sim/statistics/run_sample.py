"""What statistics need of one run: values of its metrics, and their intervals over its requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.metrics.registry import FRACTION, REQUEST_TIMES, TURN_TIMES, Quantity, quantity_of
from sim.statistics.bootstrap import (
    DRAWS,
    SEED,
    Estimate,
    Vector,
    drawn_quantiles,
    errors_of_sides,
    estimates,
    quantile_estimate,
    ratio,
)
from sim.statistics.calibration_error import Effects, Elasticities, machine_effects, machine_error
from sim.statistics.plausible import Plausible
from traces.format.sampling import FEWEST_CLUSTERS

FIRST = re.compile(r"/requests\[(\d+):\d+\]$")
"""The end of the hash of a part of a trace: number of its first request."""
MOST_BLOCKS = 10_000
"""Blocks that are drawn again; neighbours are taken together where there are more."""
TIMES = tuple(time.name for time in (*REQUEST_TIMES, *TURN_TIMES))


@dataclass(frozen=True)
class Run:
    """What a comparison needs of one run.

    `blocks`: one row per (batch, phase) as ``sim.metrics.block_sums`` makes it; `requests`: one row per request with
    `group`, its batch, and its times; where the trace says so also `cluster`, the data set or conversation it is of.
    `replayed` names the requests: trace hash and batch size. `errors`: relative standard error of figures of the
    hardware and runtime files; `elasticities`: how much of each part rests on them; `hardware` names that machine;
    `plausible`: replays on machines within those errors, where there are any, which take the place of a first-order
    estimate.

    What is drawn again is a *block*: the batches that share a data set or conversation, where the trace names at least
    ``FEWEST_CLUSTERS`` of them that share no batch; else each lockstep batch, which is one request at batch size 1.
    Beyond ``MOST_BLOCKS`` of them as many neighbours as it takes are one block, whole ones: no value changes by it, and
    an interval of means is as long, but for the noise of fewer blocks, or longer where neighbours are alike.
    """

    series: str
    blocks: pd.DataFrame
    requests: pd.DataFrame
    replayed: tuple[str, int] = ("", 1)
    hardware: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)
    plausible: Plausible | None = None
    elasticities: Elasticities = field(default_factory=dict)

    @cached_property
    def _names(self) -> NDArray[np.int64]:
        return np.unique(self.blocks["group"].to_numpy(np.int64))

    def groups(self) -> NDArray[np.int64]:
        """Names of the batches, ascending."""
        return self._names

    def numbers(self) -> NDArray[np.int64]:
        """The number of each row of `requests` in the whole trace."""
        if "trace_request" in self.requests:
            return self.requests["trace_request"].to_numpy(np.int64)
        first = FIRST.search(self.replayed[0])
        return np.arange(len(self.requests)) + (int(first[1]) if first else 0)

    @cached_property
    def block_of(self) -> NDArray[np.int64]:
        """The block, from 0, that each batch belongs to, in the order of `groups`."""
        found = self._every_block()
        count = int(found.max(initial=-1)) + 1
        return found if count <= MOST_BLOCKS else found * MOST_BLOCKS // count

    def _every_block(self) -> NDArray[np.int64]:
        batches = np.arange(len(self._names))
        if "cluster" not in self.requests or not len(batches):
            return batches
        places = np.searchsorted(self._names, self.requests["group"].to_numpy(np.int64))
        joined = _connected(places, self.requests["cluster"].to_numpy(np.int64), len(batches))
        return joined if joined.max() + 1 >= FEWEST_CLUSTERS else batches

    def of_the_stated_machine(self) -> Run:
        """The run as if its machine were known without error: its intervals are over blocks alone."""
        return replace(self, plausible=None, errors={})

    @property
    def num_blocks(self) -> int:
        """Blocks that are drawn again."""
        return int(self.block_of.max(initial=-1)) + 1

    @cached_property
    def request_times(self) -> dict[str, tuple[Vector, NDArray[np.int64]]]:
        """Known values of each time of requests, and the block of each."""
        blocks = self.block_of[np.searchsorted(self._names, self.requests["group"].to_numpy(np.int64))]
        times = {name: self.requests[name].to_numpy(np.float64) for name in TIMES if name in self.requests}
        return {name: (values[~np.isnan(values)], blocks[~np.isnan(values)]) for name, values in times.items()}

    @cached_property
    def sums(self) -> dict[str, Vector]:
        """Every column of `blocks` as [2, B]: by phase and block."""
        blocks = self.block_of[np.searchsorted(self._names, self.blocks["group"].to_numpy(np.int64))]
        places = self.blocks["phase"].to_numpy(np.int64) * self.num_blocks + blocks
        cells = 2 * self.num_blocks
        return {
            str(name): np.bincount(places, self.blocks[name].to_numpy(np.float64), cells).astype(float).reshape(2, -1)
            for name in self.blocks
            if name not in ("group", "phase")
        }


def _connected(batches: NDArray[np.int64], clusters: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Numbers batches alike that share a cluster, or a chain of them, in order of their first, [count]."""
    found = np.arange(count)
    while True:
        least = np.full(int(clusters.max(initial=-1)) + 1, count)
        np.minimum.at(least, clusters, found[batches])
        joined = found.copy()
        np.minimum.at(joined, batches, least[clusters])
        if np.array_equal(joined, found):
            return np.unique(found, return_inverse=True)[1].astype(np.int64)
        found = joined


def block_ratio(run: Run, quantity: Quantity) -> tuple[Vector, Vector]:
    """Numerator and denominator of a quantity of every block, [B] each; NaN where the run does not know it."""
    if quantity.request_time is not None:
        return _request_sums(run, quantity.request_time)
    metric = quantity.metric
    if not all(name in run.sums for name in (*metric.above, *metric.below)):
        return np.full(run.num_blocks, np.nan), np.full(run.num_blocks, np.nan)
    phases = list(quantity.phases)
    above, below = (
        np.sum([run.sums[name][phases].sum(axis=0) for name in names], axis=0) for names in (metric.above, metric.below)
    )
    return above / metric.divisor, below


def _times_of(run: Run, name: str | None) -> tuple[Vector, NDArray[np.int64]]:
    return run.request_times.get(str(name), (np.empty(0), np.empty(0, np.int64)))


def _request_sums(run: Run, name: str) -> tuple[Vector, Vector]:
    values, places = _times_of(run, name)
    blocks = run.num_blocks
    if not values.size:
        return np.full(blocks, np.nan), np.full(blocks, np.nan)
    sums, counts = np.bincount(places, values, blocks), np.bincount(places, minlength=blocks)
    return sums.astype(np.float64), counts.astype(np.float64)


def value_of(run: Run, name: str) -> float:
    """The quantity itself; NaN where the run does not know it."""
    quantity = quantity_of(name)
    if quantity.quantile is not None and quantity.request_time is not None:
        values, _ = _times_of(run, quantity.request_time)
        return float(np.quantile(values, quantity.quantile)) if values.size else float("nan")
    return float(ratio(np.stack(block_ratio(run, quantity), axis=1).sum(axis=0, keepdims=True))[0])


def quantile_draws(run: Run, quantity: Quantity, draws: int = DRAWS, seed: int = SEED) -> Vector:
    """A quantile over requests in every draw of the blocks, [draws]."""
    values, places = _times_of(run, quantity.request_time)
    return drawn_quantiles(values, places, run.num_blocks, quantity.quantile or 0.0, draws, seed)


def intervals(run: Run, names: Sequence[str], draws: int = DRAWS, seed: int = SEED) -> dict[str, Estimate]:
    """Each metric with its 95 % interval over the blocks, NaN where there is none.

    It also holds what the uncertainty of the machine's figures adds: by replays on plausible machines where the run has
    them, else to times by first order.
    """
    quantities = [quantity_of(name) for name in names]
    means = [quantity for quantity in quantities if quantity.quantile is None]
    samples = [(np.stack(block_ratio(run, quantity), axis=1), ratio) for quantity in means]
    of_means = dict(zip(means, estimates(samples, draws, seed) if samples else [], strict=True))
    found = {}
    for name, quantity in zip(names, quantities, strict=True):
        if quantity.quantile is None:
            sampled = of_means[quantity]
        else:
            sampled = quantile_estimate(*_times_of(run, quantity.request_time), quantity.quantile)
        if run.plausible is not None and run.plausible.knows(quantity):
            sides = errors_of_sides(run.plausible.shifts(quantity, sampled.value))
        else:
            sides = (machine_error(effects_on(run, quantity, sampled.value)),) * 2
        found[name] = sampled.widened(*sides).within(0.0, most_of(quantity))
    return found


def effects_on(run: Run, quantity: Quantity, value: float) -> Effects:
    """What the uncertain figures of the run's machine do to `value` of a quantity."""
    return machine_effects(run.sums, quantity, run.errors, run.elasticities, run.hardware, value)


def most_of(quantity: Quantity) -> float:
    """What a metric cannot exceed; none can be negative."""
    return 1.0 if quantity.metric.unit is FRACTION else float("inf")
