"""Which policy is best under which conditions, and which cannot be distinguished from the best."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sim.figures.one_capacity import USUAL_CAPACITY
from sim.metrics.registry import decode_time
from sim.results.comparisons import common_values, compared
from sim.statistics.pairs import corrected_together

HITS = "hit_rate"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs that differ in their policy only: the best of them, and every other run beside it.

    `runs`: contenders by the metric, the best first; `bounds`: runs that no live system of that capacity can equal;
    `pairs`: rows of `sim.statistics.pairs.compare`, every other run against the best, empty where only one ran;
    `notes`: which were compared on fewer requests than they replayed, and what else is said of the pairs. Runs that
    replayed different requests are ranked by what all of them replayed.
    """

    metric: str
    runs: pd.DataFrame
    bounds: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> pd.Series:
        return self.runs.iloc[0]

    @property
    def rivals(self) -> pd.DataFrame:
        """The pairs that are contenders, nearest to the best first."""
        order = {name: place for place, name in enumerate(self.runs["series"])}
        chosen = self.pairs[self.pairs["series"].isin(list(order))]
        return chosen.sort_values("series", key=lambda names: names.map(order))


def ranking_metric(table: pd.DataFrame) -> str:
    """What runs are ranked by: a time, see `decode_time`, or the hit rate where nothing has a clock."""
    return decode_time(table["batch_size"]) if table["tpot_s.mean"].notna().any() else HITS


def is_bound(table: pd.DataFrame) -> pd.Series[bool]:
    """Which runs are bounds and no contenders: they see the future, or hold everything or nothing."""
    return table["sees_future"].astype(bool) | table["residency"].isin(["all", "none"])


def compare_all(table: pd.DataFrame) -> list[Comparison]:
    """One comparison per set of conditions with a contender; p values are corrected for all pairs of all of them.

    The first is the one with the most contenders, of several the one nearest to a quarter of the experts at
    the smallest batch.
    """
    metric = ranking_metric(table)
    known = table.dropna(subset=[metric]).drop_duplicates(["conditions", "series"])
    comparisons = []
    for _, group in known.groupby("conditions", sort=True):
        bound = is_bound(group)
        ranked = group.assign(rank=common_values(group, metric))
        runs = ranked[~bound].sort_values(["rank", "series"], ascending=[metric != HITS, True]).drop(columns="rank")
        if len(runs):
            found = compared(group, metric, str(runs.iloc[0]["series"]))
            comparisons.append(Comparison(metric, runs, group[bound], found.pairs, found.notes))
    return _corrected(sorted(comparisons, key=_rank))


def _rank(comparison: Comparison) -> tuple[int, float, int]:
    """Sorts the comparison that the answer speaks of to the front."""
    best = comparison.best
    return -len(comparison.runs), abs(float(best["capacity"]) - USUAL_CAPACITY), int(best["batch_size"])


def _corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """All pairs as one family."""
    if not any(len(comparison.pairs) for comparison in comparisons):
        return comparisons
    together = corrected_together(pd.concat([comparison.pairs for comparison in comparisons], ignore_index=True))
    ends = np.cumsum([len(comparison.pairs) for comparison in comparisons])
    return [
        replace(comparison, pairs=together.iloc[end - len(comparison.pairs) : end])
        for comparison, end in zip(comparisons, ends, strict=True)
    ]
