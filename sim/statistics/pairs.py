"""Paired comparisons of runs: a cluster bootstrap over whole requests.

The unit that is drawn is the *block* of `run_sample.Run`: the requests that decoded in lockstep, one request at batch
size 1, or all those of a data set or conversation. The tokens of a request depend on each other, requests less so. A
metric is a ratio of sums over blocks (or a quantile over requests), computed anew for every draw. All runs of a
comparison get the same draws, so that what the requests have in common cancels. `contrast` is where the interval of a
difference is made. Nothing here reads files: `sim.results.table` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sim.metrics.registry import Quantity, quantity_of
from sim.statistics.bootstrap import (
    DRAWS,
    SEED,
    SIGNIFICANCE,
    Estimate,
    Vector,
    blocks_needed,
    difference,
    errors_of_sides,
    estimates,
    from_draws,
    quotient,
    ratio_of_ratios,
    too_few,
)
from sim.statistics.calibration_error import machine_draws, machine_error, minus
from sim.statistics.plausible import comparable
from sim.statistics.run_sample import Run, block_ratio, effects_on, intervals, most_of, quantile_draws, value_of
from traces.errors import UserError

COLUMNS = (
    "series", "against", "metric", "value", "low", "high", "against_value", "difference", "difference_low",
    "difference_high", "ratio", "ratio_low", "ratio_high", "p", "p_holm", "wins", "distinguishable", "blocks", "why",
    "machine", "machines", "better_on",
)  # fmt: skip


def check_paired(runs: Sequence[Run]) -> None:
    """Raises UserError where two runs did not replay the same requests in the same batches."""
    first = runs[0]
    for run in runs[1:]:
        if run.replayed != first.replayed or not np.array_equal(run.block_of, first.block_of):
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
    `p` (two-sided: below .05 where the interval of the difference leaves out 0), `p_holm` (corrected for the number of
    rows); `wins`: share of draws in which `series` is better than `against`, a tie counts half; `distinguishable`:
    p_holm below 0.05; `why`: why there is no interval, else empty; `machine`: how the uncertainty of the machine's
    figures is in it (``REPLAYED``, ``FIRST_ORDER``, or empty where it is not); `machines`: how many plausible machines,
    `better_on`: the share of them on which `series` is better, a tie counts half, NaN without replays.

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
    alone = {run.series: intervals(run, [metric], draws, seed)[metric] for run in runs}
    rows = [_compared(one, other, quantity, alone, contrast(one, other, quantity, draws, seed)) for one, other in pairs]
    return corrected_together(pd.DataFrame(rows, columns=list(COLUMNS)))


def corrected_together(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one or more `compare` with `p_holm` and `distinguishable` for all of them as one family."""
    corrected = holm(table["p"].to_numpy(np.float64))
    return table.assign(p_holm=corrected, distinguishable=corrected < SIGNIFICANCE)


REPLAYED, FIRST_ORDER = "replayed", "first order"


@dataclass(frozen=True, slots=True)
class Contrast:
    """A difference of two runs on the same blocks, value - value, and their ratio, each with its interval.

    The draws of `difference` hold what the machine's uncertainty does as well. `machine`: how that is known, as in
    `compare`; `shifted`: the difference on each plausible machine, none without replays.
    """

    difference: Estimate
    ratio: Estimate
    machine: str = ""
    shifted: Vector = field(default_factory=lambda: np.empty(0))


def contrast(one: Run, other: Run, quantity: Quantity, draws: int = DRAWS, seed: int = SEED) -> Contrast:
    """The one place where the interval of a difference of two runs is made: over their blocks, and over the machine.

    The blocks drawn are the same for both. Where both were replayed on the same plausible machines, what these do to
    difference and ratio is known of each machine; the errors below and above are added in quadrature. Else it is
    estimated by first order: `effects` says what each uncertain figure does to the difference. What a machine does to
    both runs alike cancels.
    """
    if quantity.quantile is None:
        columns = np.stack([*block_ratio(one, quantity), *block_ratio(other, quantity)], axis=1)
        gap, share = estimates([(columns, difference), (columns, ratio_of_ratios)], draws, seed)
    else:
        gap, share = _of_quantiles(one, other, quantity, draws, seed)
    values = [value_of(run, quantity.name) for run in (one, other)]
    if comparable(one.plausible, other.plausible, quantity):
        return _replayed(one, other, quantity, gap, share, seed)
    effects = minus(*(effects_on(run, quantity, value) for run, value in zip((one, other), values, strict=True)))
    relative = minus(*(effects_on(run, quantity, 1.0) for run in (one, other)))
    gap = replace(gap, draws=gap.draws + machine_draws(effects, len(gap.draws), seed)).widened(machine_error(effects))
    share = share.widened(machine_error(relative) * abs(share.value)).within(0.0, float("inf"))
    return Contrast(gap.within(-most_of(quantity), most_of(quantity)), share, FIRST_ORDER if effects else "")


def _replayed(one: Run, other: Run, quantity: Quantity, gap: Estimate, share: Estimate, seed: int) -> Contrast:
    """`contrast` of difference and ratio over blocks, with what plausible machines do to them."""
    assert one.plausible is not None and other.plausible is not None
    values = [value_of(run, quantity.name) for run in (one, other)]
    above, below = (
        value + of.shifts(quantity, value) for of, value in zip((one.plausible, other.plausible), values, strict=True)
    )
    shifted = above - below
    if not len(shifted):
        return Contrast(gap.within(-most_of(quantity), most_of(quantity)), share)
    chosen = np.random.default_rng([seed, 1]).integers(0, len(shifted), len(gap.draws))
    gap = replace(gap, draws=gap.draws + (shifted - gap.value)[chosen])
    gap = gap.widened(*errors_of_sides(shifted - gap.value))
    ratios = quotient(above, below)
    if np.isfinite(ratios).all():
        share = share.widened(*errors_of_sides(ratios - share.value))
    gap, share = gap.within(-most_of(quantity), most_of(quantity)), share.within(0.0, float("inf"))
    return Contrast(gap, share, REPLAYED, shifted)


def _of_quantiles(one: Run, other: Run, quantity: Quantity, draws: int, seed: int) -> tuple[Estimate, Estimate]:
    """Difference and ratio of a quantile over the same draws; without interval where a quantile alone has none."""
    values = [np.array([value_of(run, quantity.name)]) for run in (one, other)]
    drawn = [quantile_draws(run, quantity, draws, seed) for run in (one, other)]
    blocks, asked = one.num_blocks, quantity.quantile or 0.0
    found = [from_draws(float(of(*values)[0]), of(*drawn), blocks) for of in (np.subtract, quotient)]
    if blocks < blocks_needed(asked):
        none = float("nan")
        why = too_few(asked, blocks, len(one.requests))
        found = [replace(estimated, low=none, high=none, why=why) for estimated in found]
    return found[0], found[1]


def _compared(
    one: Run, other: Run, quantity: Quantity, alone: Mapping[str, Estimate], against: Contrast
) -> dict[str, Any]:
    """One row of `compare`, uncorrected."""
    value, baseline, gap, ratio = alone[one.series], alone[other.series], against.difference, against.ratio
    return {
        "series": one.series, "against": other.series, "metric": quantity.name,
        "value": value.value, "low": value.low, "high": value.high, "against_value": baseline.value,
        "difference": gap.value, "difference_low": gap.low, "difference_high": gap.high,
        "ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high,
        "p": gap.p_value(), "wins": _better(gap.draws, quantity), "blocks": one.num_blocks, "why": gap.why,
        "machine": against.machine, "machines": len(against.shifted),
        "better_on": _better(against.shifted, quantity),
    }  # fmt: skip


def _better(differences: Vector, quantity: Quantity) -> float:
    """Share of differences in which the first is better, a tie counts half; NaN of none."""
    known = differences[~np.isnan(differences)]
    better = known > 0 if quantity.metric.higher_is_better else known < 0
    return float((better + 0.5 * (known == 0)).mean()) if known.size else float("nan")


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
