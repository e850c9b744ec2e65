"""Runs beside a baseline that the reader names, and rules of one's own beside the plain policy that they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sim.formatting import form_of, is_known, number, percent, with_interval
from sim.metrics.registry import quantity_of
from sim.report.comparison import HITS, ranking_metric
from sim.results.comparisons import compared
from sim.results.series import chosen_baseline, has_own_rule
from traces.errors import UserError

MOST_SENTENCES = 6


@dataclass(frozen=True, slots=True)
class Beside:
    """One run beside the baseline: `change` is time over the baseline's - 1, or the difference of hit rates in points,
    with its 95 % interval; `p` is corrected for all pairs by Holm; `sure`: whether it is below .05."""

    where: str
    series: str
    against: str
    change: str
    p: str
    sure: bool


def beside(table: pd.DataFrame, baseline: str | None) -> tuple[Beside, ...]:
    """Every run beside the baseline; without one, rules of one's own beside their plain policy where that was run.

    Raises: UserError for a baseline that is not among the runs.
    """
    metric = ranking_metric(table)
    if baseline is not None:
        return tuple(_rows(table, metric, baseline))
    found: list[Beside] = []
    own = table[table["series"].map(lambda series: has_own_rule(str(series)))]
    for policy in dict.fromkeys(own["policy"].map(str)):
        series = set(own.loc[own["policy"] == policy, "series"])
        try:
            plain = chosen_baseline(table, policy)
        except UserError:  # the plain policy was not run: nothing to be beside
            continue
        if not plain & series:
            found += _rows(table[table["series"].isin(series | plain)], metric, policy)
    return tuple(found)


def _rows(table: pd.DataFrame, metric: str, baseline: str) -> Iterator[Beside]:
    for _, pair in compared(table, metric, baseline).pairs.iterrows():
        where = f"{pair['asked_capacity']}, {pair['hardware']}, batch size {pair['batch_size']}"
        p = number(pair["p_holm"], ".2g", unknown="–")
        yield Beside(where, str(pair["series"]), str(pair["against"]), _change(pair, metric), p, _sure(pair))


def _sure(pair: Any) -> bool:
    return is_known(pair["p_holm"]) and bool(pair["distinguishable"])


def _change(pair: Any, metric: str) -> str:
    if metric == HITS or not quantity_of(metric).is_time:
        gap = [100 * float(pair[f"difference{end}"]) for end in ("", "_low", "_high")]
        return f"{with_interval(f'{gap[0]:+.1f}', gap[1], gap[2], '+.1f', 1.0)} points"
    less = [float(pair[name]) - 1 for name in ("ratio", "ratio_low", "ratio_high")]
    return with_interval(percent(less[0], form_of(less), " %"), less[1], less[2], form_of(less), 100.0)


def sentences(rows: tuple[Beside, ...], timed: bool) -> list[str]:
    """The answer for rules of one's own, or for all where there are few of them."""
    own = [row for row in rows if has_own_rule(row.series)] or list(rows)
    what = "time per token" if timed else "hit rate"
    said = [
        f"Beside {row.against} at capacity {row.where}, {row.series} changes the {what} by {row.change}: "
        f"{'more than chance' if row.sure else 'it may be chance'} (p {row.p})."
        for row in own[:MOST_SENTENCES]
    ]
    return said + ([f"{len(own) - MOST_SENTENCES} more stand in the table."] if len(own) > MOST_SENTENCES else [])
