"""Paired comparisons of runs: a cluster bootstrap over whole requests.

The unit that is drawn is the *block*: the requests that decoded in lockstep, one request at batch size 1. The tokens of
a request depend on each other, requests less so. A metric is a ratio of sums over blocks (or a quantile over requests),
computed anew for every draw. All runs of a comparison get the same draws, so that what the requests have in common
cancels. Nothing here reads files: `sim.results.table` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sim.metrics.registry import Quantity, quantity_of
from sim.statistics.bootstrap import DRAWS, SEED, SIGNIFICANCE, Vector, interval, quotient
from sim.statistics.calibration_error import sensitivities
from sim.statistics.run_sample import Run, block_ratio, draws_of, value_of
from traces.errors import UserError

COLUMNS = (
    "series", "against", "metric", "value", "low", "high", "against_value", "difference", "difference_low",
    "difference_high", "ratio", "ratio_low", "ratio_high", "p", "p_holm", "wins", "distinguishable", "blocks",
)  # fmt: skip


def check_paired(runs: Sequence[Run]) -> None:
    """Raises UserError where two runs did not replay the same requests in the same batches."""
    first = runs[0]
    for run in runs[1:]:
        if run.replayed != first.replayed or not np.array_equal(run.groups(), first.groups()):
            (one, size), (other, others) = first.replayed, run.replayed
            raise UserError(
                f"{first.series} and {run.series} cannot be compared pair by pair: the first replayed trace "
                f"{_short(one)} at batch size {size} in {len(first.groups())} batches, the second {_short(other)} at "
                f"batch size {others} in {len(run.groups())}; they must be the same"
            )


def _short(trace_hash: str) -> str:
    content, slash, part = trace_hash.partition("/")
    return f"{content[:12]}{slash}{part}"


def compare(
    runs: Sequence[Run], metric: str, baseline: str | None = None, draws: int = DRAWS, seed: int = SEED
) -> pd.DataFrame:
    """Every pair of runs on the same requests, or every run against `baseline`, one row each.

    Columns: `series`, `value`, `low`, `high`; the same of the other run: `against`, `against_value`; `difference` =
    value - against_value and `ratio` = value / against_value, each with `_low` and `_high` (95 %, over common draws);
    `p` (two-sided, see `p_value`), `p_holm` (corrected for the number of rows); `wins`: share of draws in which
    `series` is better than `against`, a tie counts half; `distinguishable`: p_holm below 0.05.

    Raises: UserError for unknown names, or where the runs did not replay the same requests in the same batches.
    """
    known = {run.series: run for run in runs}
    if len(known) < len(runs):
        raise UserError("two runs of a comparison have the same name: give every series a name of its own")
    if baseline is not None and baseline not in known:
        raise UserError(f"baseline={baseline} is not one of the runs: they are {', '.join(known)}")
    quantity = quantity_of(metric)
    if runs:
        check_paired(runs)
    for run in runs:
        if np.isnan(value_of(run, metric)):
            raise UserError(f"{metric} of {run.series} is not known: it cannot be compared")
    pairs = list(combinations(runs, 2)) if baseline is None else [
        (run, known[baseline]) for run in runs if run.series != baseline
    ]  # fmt: skip
    drawn = {run.series: draws_of(run, metric, draws, seed) for run in runs}
    rows = [_compared(one, other, quantity, drawn) for one, other in pairs]
    return corrected_together(pd.DataFrame(rows, columns=list(COLUMNS)))


def corrected_together(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one or more `compare` with `p_holm` and `distinguishable` for all of them as one family."""
    corrected = holm(table["p"].to_numpy(np.float64))
    return table.assign(p_holm=corrected, distinguishable=corrected < SIGNIFICANCE)


def _compared(one: Run, other: Run, quantity: Quantity, drawn: Mapping[str, Vector]) -> dict[str, Any]:
    """One row of `compare`, uncorrected."""
    blocks, name = len(one.groups()), quantity.name
    draws, other_draws = drawn[one.series], drawn[other.series]
    value, against = value_of(one, name), value_of(other, name)
    (low, high), (less, more) = interval(draws, blocks), interval(draws - other_draws, blocks)
    ratio_low, ratio_high = interval(quotient(draws, other_draws), blocks)
    better = draws > other_draws if quantity.metric.higher_is_better else draws < other_draws
    known = ~(np.isnan(draws) | np.isnan(other_draws))
    wins = (better + 0.5 * (draws == other_draws))[known].mean() if known.any() else float("nan")
    return {
        "series": one.series, "against": other.series, "metric": name, "value": value, "low": low, "high": high,
        "against_value": against, "difference": value - against, "difference_low": less, "difference_high": more,
        "ratio": float(quotient(np.array([value]), np.array([against]))[0]),
        "ratio_low": ratio_low, "ratio_high": ratio_high,
        "p": p_value(one, other, quantity, draws - other_draws), "wins": float(wins), "blocks": blocks,
    }  # fmt: skip


def p_value(one: Run, other: Run, quantity: Quantity, drawn_difference: Vector) -> float:
    """Two-sided p of the difference of two runs on the same blocks being nothing but chance; NaN for one block.

    Student's t with B - 1 degrees on the differences of the blocks' contributions to the two ratios,
    (above - value * below) / mean(below): where all blocks weigh the same this is the paired t test. The variance that
    uncertain figures of the hardware file cause is added. Quantiles have no contributions: their standard error is
    that of the draws. Draws themselves could not tell p below 1 / draws, too coarse for Holm's correction.
    """
    from scipy.special import stdtr

    blocks = len(one.groups())
    if blocks < 2:
        return float("nan")
    difference = value_of(one, quantity.name) - value_of(other, quantity.name)
    if quantity.quantile is not None:
        variance = float(np.nanvar(drawn_difference))
    else:
        spread = contributions(one, quantity) - contributions(other, quantity)
        variance = float(spread.var(ddof=1)) / blocks + calibration_variance(one, other, quantity)
    scale = max(abs(value_of(one, quantity.name)), abs(value_of(other, quantity.name)))
    if variance <= (1e-12 * scale) ** 2:  # not more than rounding
        return 1.0 if abs(difference) <= 1e-12 * scale else 0.0
    return float(2 * stdtr(blocks - 1, -abs(difference) / np.sqrt(variance)))


def contributions(run: Run, quantity: Quantity) -> Vector:
    """What each block contributes to the ratio's deviation, [B]; their mean is 0."""
    above, below = block_ratio(run, quantity)
    return np.asarray((above - above.sum() / below.sum() * below) / below.mean(), np.float64)


def holm(p_values: Vector) -> Vector:
    """p values corrected for their number by Holm's step-down procedure; NaN stays and does not count.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6.
    """
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")
    order = order[~np.isnan(p_values[order])]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors)) if len(order) else []
    return corrected


def calibration_variance(one: Run, other: Run, quantity: Quantity) -> float:
    """Variance of the difference of two times that uncertain figures cause; of one machine they err together."""
    if not quantity.is_time:
        return 0.0
    effects: dict[tuple[str, str], float] = {}
    for run, sign in ((one, 1.0), (other, -1.0)):
        for figure, error in sensitivities(run.blocks, quantity, run.errors).items():
            key = (run.hardware, figure)
            effects[key] = effects.get(key, 0.0) + sign * error * value_of(run, quantity.name)
    return sum(effect**2 for effect in effects.values())
