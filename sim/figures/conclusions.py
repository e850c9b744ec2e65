"""What a figure of runs shows, in one sentence: which policy is best, by how much, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from sim.figures.chart_parts import BASELINE
from sim.formatting import percent
from sim.metrics.registry import decode_time, quantity_of

GROUPS = ["place", "capacity"]


def contenders(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that are no bounds; all where there are no others."""
    live = table[~table["bound"].astype(bool)]
    return live if len(live) else table


def groups_of(table: pd.DataFrame, metric: str) -> Iterator[pd.DataFrame]:
    """The contenders of every set-up and capacity that has two of them at least, the best first."""
    inner = contenders(table).dropna(subset=[metric]) if metric in table else table.head(0)
    rising = not quantity_of(metric).metric.higher_is_better
    for _, group in inner.groupby(GROUPS, sort=True):
        if group["contender"].nunique() > 1:
            yield group.sort_values(metric, ascending=rising, kind="stable").drop_duplicates("contender")


def fastest(table: pd.DataFrame, metric: str = "") -> str:
    """Who has the lowest time per token where, and by how much it leads the next."""
    return best(table, metric or decode_time(table["batch_size"]), "is fastest", "less time per token than")


def best(table: pd.DataFrame, metric: str, verb: str, less: str) -> str:
    """Who is best by a metric, in how many of the cases shown, and by how much beside the next and the baseline."""
    groups = list(groups_of(table, metric))
    if not groups:
        return ""
    winners = pd.Series([str(group["contender"].iloc[0]) for group in groups])
    name = str(winners.mode().iloc[0])
    won = [group for group, winner in zip(groups, winners, strict=True) if winner == name]
    where = "" if len(groups) == 1 else f" in {len(won)} of {len(groups)} cases"
    parts = [lead(won, metric, less, 1)]
    if name != BASELINE and all((group["contender"] == BASELINE).any() for group in won):
        parts.append(lead(won, metric, less, None))
    return f"{name} {verb}{where}: {' and '.join(dict.fromkeys(filter(None, parts)))}."


def lead(groups: list[pd.DataFrame], metric: str, less: str, place: int | None) -> str:
    """By how much the first leads the run at a place, or the baseline where that is None, over these groups."""
    others = [group.iloc[place] if place else group[group["contender"] == BASELINE].iloc[0] for group in groups]
    firsts = [group.iloc[0] for group in groups]
    if quantity_of(metric).metric.higher_is_better:
        gaps = [100 * float(one[metric] - other[metric]) for one, other in zip(firsts, others, strict=True)]
        amount = f"{span(gaps)} points {less}"
    else:
        gaps = [100 * (1 - float(one[metric] / other[metric])) for one, other in zip(firsts, others, strict=True)]
        amount = f"{span(gaps)} % {less}"
    names = list(dict.fromkeys(str(other["contender"]) for other in others))
    return f"{amount} {names[0] if len(names) == 1 else 'the next'}"


def span(values: list[float]) -> str:
    """One number, or the least and the largest of several."""
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def gap_to_belady(table: pd.DataFrame) -> str:
    """How far the best rule without a look into the future stays below Belady's."""
    rates = table.dropna(subset=["decode.hit_rate"])
    ceiling = rates[rates["eviction"] == "belady"].groupby("capacity")["decode.hit_rate"].max()
    causal = rates[~rates["bound"].astype(bool)].groupby("capacity")["decode.hit_rate"].max()
    gaps = (100 * (ceiling - causal)).dropna().tolist()
    if not gaps:
        return best(table, "decode.hit_rate", "hits most in decode steps", "more than")
    return f"The best rule without a look into the future stays {span(gaps)} points below Belady's."


def largest_part(table: pd.DataFrame, words: dict[str, str]) -> str:
    """What takes most of the time of the fastest contender, the one nearest to the usual capacity."""
    live = contenders(table)
    run = live.iloc[int(np.nanargmin(live["tpot_s.mean"].to_numpy(np.float64)))]
    times = {word: float(run.get(f"time_s_per_token.{part}", 0.0) or 0.0) for part, word in words.items()}
    whole = sum(value for value in times.values() if np.isfinite(value))
    if not whole:
        return ""
    word = max(times, key=lambda name: np.nan_to_num(times[name]))
    share = percent(times[word] / whole, ".0f", " %")
    return (
        f"Fastest is {run['name']} at {100 * run['capacity']:.3g} %; the largest part of its time, {share}, is {word}."
    )


def along(table: pd.DataFrame, x: str, words: str, metric: str = "tpot_s.mean") -> str:
    """What the time per token of each line does from the first value of a knob to the last, for the most of them."""
    changes: list[Any] = []
    for _, group in table.groupby("line", sort=True):
        line = group.sort_values(x)
        if len(line) > 1 and line[metric].iloc[0] > 0:
            changes.append(100 * (float(line[metric].iloc[-1] / line[metric].iloc[0]) - 1))
    return f"From the least to the largest {words} the time per token changes by {span(changes)} %." if changes else ""
