"""Tokens per second at the axis across from a time per token."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator

from sim.results.table import bounds_of, rate_heading

LABEL = "Tokens per second"
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
"""First digits of the rates that are named."""
LEAST_GAP = 0.13
"""Between two named rates, as a share of the axis."""
NEAREST = 0.04
"""Times below this share of the largest have no rate: towards 0 they grow without end."""


def add_rates(panel: Axes, runs: pd.DataFrame, metric: str, across: bool = False, named: bool = True) -> None:
    """Tokens per second of all requests of a batch, on the right of an ordinate of times (`across`: over an abscissa).

    Nothing where the runs have several batch sizes, or where the time holds other requests' prefills (TPOT in a
    batch). `named`: with a label.
    """
    batches = set(runs["batch_size"].astype(int)) if "batch_size" in runs else set()
    if len(batches) != 1 or (metric == "tpot_s.mean" and batches != {1}):
        return
    (batch,) = batches
    beside = panel.secondary_xaxis("top") if across else panel.secondary_yaxis("right")
    axis = beside.xaxis if across else beside.yaxis
    transform = (panel.xaxis if across else panel.yaxis).get_transform().transform
    axis.set_major_locator(RateLocator(1e3 * batch, lambda ms: float(transform(ms)), reached(runs, metric)))
    axis.set_major_formatter(FuncFormatter(lambda ms, _: rate_name(1e3 * batch / ms) if ms > 0 else ""))
    axis.set_minor_locator(NoTicks())
    beside.spines["top" if across else "right"].set_visible(True)
    if named:
        layers = rate_heading(runs).partition(", ")[2]
        (beside.set_xlabel if across else beside.set_ylabel)(f"{LABEL}\n({layers})" if layers else LABEL)


def reached(runs: pd.DataFrame, metric: str) -> tuple[float, float]:
    """The times in ms between which rates are named: those of the runs and their intervals, and a little beside."""
    drawn = [name for name in (metric, *bounds_of(metric)) if name in runs]
    times = 1e3 * runs[drawn].to_numpy(np.float64)
    times = times[np.isfinite(times) & (times > 0)]
    return (float(times.min()) / BESIDE, float(times.max()) * BESIDE) if times.size else (0.0, math.inf)


BESIDE = 1.15
"""How far beside the fastest and slowest run rates are still named, as a factor of their time."""


def rate_name(rate: float) -> str:
    """A rate in three digits, without a power of ten."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


class NoTicks(Locator):
    """No tick anywhere."""

    def __call__(self) -> list[float]:
        return []


class RateLocator(Locator):
    """Times in ms at which `amount` over the time is a round number, apart from each other."""

    def __init__(
        self, amount: float, place: Callable[[float], float], reached: tuple[float, float] = (0.0, math.inf)
    ) -> None:
        self.amount, self.place, self.reached = amount, place, reached

    def __call__(self) -> list[float]:
        """Where the ticks are, for what the axis shows."""
        assert self.axis is not None
        low, high = sorted(float(end) for end in self.axis.get_view_interval())
        named = rates_between(low, high, self.amount, self.place, self.reached)
        return named or rates_between(low, high, self.amount, self.place)


def rates_between(
    low: float, high: float, amount: float, place: Callable[[float], float],
    reached: tuple[float, float] = (0.0, math.inf),
) -> list[float]:  # fmt: skip
    """Times from `low` to `high` at which `amount` over the time is round, the slowest first; `place`: on the axis.

    `reached`: the times between which there are runs; none beside them is named.
    """
    if not (0 < high < math.inf):
        return []
    found: list[float] = []
    low = max(low, high * NEAREST)
    span = abs(place(high) - place(low))
    for exponent in range(math.floor(math.log10(amount / high)), math.floor(math.log10(amount / high)) + 4):
        for step in STEPS:
            time = amount / (step * 10.0**exponent)
            if max(low, reached[0]) <= time <= min(high, reached[1]) and (
                not found or abs(place(found[-1]) - place(time)) >= LEAST_GAP * span
            ):
                found.append(time)
    return found
