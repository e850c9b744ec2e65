"""Who is best under which conditions, and who cannot be told from the best: the report's only use of statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.figures.setups import USUAL_CAPACITY
from sim.results.table import comparisons
from sim.statistics.pairs import corrected_together

TIME, HITS = "tpot_s.mean", "hit_rate"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs that differ in their policy only: the best of them, and every other run beside it.

    `runs`: contenders by the metric, the best first; `bounds`: runs that no live system of that capacity can equal;
    `pairs`: rows of `sim.statistics.pairs.compare`, every other run against the best, empty where only one ran.
    """

    metric: str
    runs: pd.DataFrame
    bounds: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def best(self) -> pd.Series:
        return self.runs.iloc[0]

    @property
    def rivals(self) -> pd.DataFrame:
        """The pairs that are contenders, nearest to the best first."""
        order = {name: place for place, name in enumerate(self.runs["series"])}
        chosen = self.pairs[self.pairs["series"].isin(list(order))]
        return chosen.sort_values("series", key=lambda names: names.map(order))


def metric_of(table: pd.DataFrame) -> str:
    """What runs are ranked by: TPOT, or the hit rate where nothing has a clock."""
    return TIME if table[TIME].notna().any() else HITS


def is_bound(table: pd.DataFrame) -> pd.Series[bool]:
    """Which runs are bounds and no contenders: they see the future, or hold everything or nothing."""
    return table["sees_future"].astype(bool) | table["residency"].isin(["all", "none"])


def compare_all(table: pd.DataFrame) -> list[Comparison]:
    """One comparison per set of conditions with a contender; p values are corrected for all pairs of all of them.

    The first is the one with the most contenders, of several the one nearest to a quarter of the experts at
    the smallest batch.
    """
    metric = metric_of(table)
    known = table.dropna(subset=[metric]).drop_duplicates(["conditions", "series"])
    found = []
    for _, group in known.groupby("conditions", sort=True):
        bound = is_bound(group)
        runs = group[~bound].sort_values([metric, "series"], ascending=[metric == TIME, True])
        if len(runs):
            pairs = comparisons(group, metric, str(runs.iloc[0]["series"]))
            found.append(Comparison(metric, runs, group[bound], pairs))
    found.sort(key=_rank)
    return _corrected(found)


def _rank(one: Comparison) -> tuple[int, float, int]:
    """Sorts the comparison that the answer speaks of to the front."""
    return -len(one.runs), abs(float(one.best["capacity"]) - USUAL_CAPACITY), int(one.best["batch_size"])


def _corrected(found: list[Comparison]) -> list[Comparison]:
    """All pairs as one family."""
    if not any(len(one.pairs) for one in found):
        return found
    together = corrected_together(pd.concat([one.pairs for one in found], ignore_index=True))
    ends = np.cumsum([len(one.pairs) for one in found])
    return [
        Comparison(one.metric, one.runs, one.bounds, together.iloc[end - len(one.pairs) : end])
        for one, end in zip(found, ends, strict=True)
    ]
