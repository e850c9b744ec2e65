"""What a figure of runs shows, in one sentence: which policy is best, by how much, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from sim.figures.chart_parts import BASELINE
from sim.figures.one_capacity import one_capacity
from sim.formatting import percent, shortlist
from sim.metrics.registry import decode_time, quantity_of
from sim.results.comparisons import compared
from sim.results.series import has_own_rule
from sim.results.table import METHOD, bounds_of

GROUPS = ["place", "capacity"]


def contenders(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that are no bounds; all where there are no others."""
    live = table[~table["bound"].astype(bool)]
    return live if len(live) else table


def groups_of(table: pd.DataFrame, metric: str) -> Iterator[pd.DataFrame]:
    """The contenders of every set-up and capacity that has two of them at least, the best first."""
    inner = contenders(table).dropna(subset=[metric]) if metric in table else table.head(0)
    rising = not in_points(metric)
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
    if all(lead([group], metric, less, len(group) - 1).startswith("under") for group in groups):
        every = "Both policies" if {len(group) for group in groups} == {2} else f"All {runs_word(groups)}"
        return f"{every} are alike in this, to {'1 point' if in_points(metric) else '1 %'}."
    winners = pd.Series([str(group["contender"].iloc[0]) for group in groups])
    name = str(winners.mode().iloc[0])
    won = [group for group, winner in zip(groups, winners, strict=True) if winner == name]
    share = f"{len(won)} of {len(groups)}" if len(won) < len(groups) else "both" if len(won) == 2 else f"all {len(won)}"
    where = "" if len(groups) == 1 else f" in {share} cases"
    parts = [lead(won, metric, less, 1)]
    if name != BASELINE and all((group["contender"] == BASELINE).any() for group in won):
        parts.append(lead(won, metric, less, None))
    return (
        f"{name} {verb}{where}: {' and '.join(dict.fromkeys(filter(None, parts)))}.{own_beside(groups, metric, name)}"
    )


def own_beside(groups: list[pd.DataFrame], metric: str, winner: str) -> str:
    """How rules of one's own that are not the best stand beside the baseline, from the least to the largest change."""
    said = []
    names = dict.fromkeys(str(name) for group in groups for name in group["contender"])
    for name in [name for name in names if name != winner and has_own_rule(name)][:MOST_NAMED]:
        changes, same = [], []
        for group in groups:
            values = group.set_index("contender")[metric].astype(float)
            if {name, BASELINE} <= set(values.index):
                own, other = float(values[name]), float(values[BASELINE])
                changes.append(100 * (own - other if in_points(metric) else own / other - 1))
                ours, theirs = (group[group["contender"] == one].iloc[0] for one in (name, BASELINE))
                same.append(indistinct(ours, theirs, metric))
        if changes:
            ends = list(dict.fromkeys(f"{change:+.1f}" for change in (min(changes), max(changes))))
            unit = "points" if in_points(metric) else "%"
            said.append(f" {name}: {' to '.join(ends)} {unit} beside {BASELINE}{doubt(same)}.")
    return "".join(said)


def runs_word(groups: list[pd.DataFrame]) -> str:
    """How many contenders are compared."""
    counts = [float(len(group)) for group in groups]
    return f"{span(counts)} policies"


def in_points(metric: str) -> bool:
    """Whether leads are differences of shares, not ratios."""
    return quantity_of(metric).metric.higher_is_better


def lead(groups: list[pd.DataFrame], metric: str, less: str, place: int | None) -> str:
    """By how much the first leads the run at a place, or the baseline where that is None, over these groups."""
    others = [group.iloc[place] if place else group[group["contender"] == BASELINE].iloc[0] for group in groups]
    firsts = [group.iloc[0] for group in groups]
    if in_points(metric):
        gaps = [100 * float(one[metric] - other[metric]) for one, other in zip(firsts, others, strict=True)]
        unit = "points" if max(gaps) >= SHOWN_GAP else "point"
    else:
        gaps = [100 * (1 - float(one[metric] / other[metric])) for one, other in zip(firsts, others, strict=True)]
        unit = "%"
    amount = f"{span(gaps)} {unit} {less}" if max(gaps) >= SHOWN_GAP else f"under 1 {unit} {less}"
    names = list(dict.fromkeys(str(other["contender"]) for other in others))
    same = [indistinct(one, other, metric) for one, other in zip(firsts, others, strict=True)]
    return f"{amount} {names[0] if len(names) == 1 else 'the next'}{doubt(same)}"


def doubt(same: list[bool]) -> str:
    """In how many of the cases two runs are not distinguishable, after what is said of them; empty where in none."""
    if not any(same):
        return ""
    if all(same):
        return " (not distinguishable)"
    return f" (not distinguishable in {sum(same)} of {len(same)} cases)"


def indistinct(one: pd.Series[Any], other: pd.Series[Any], metric: str) -> bool:
    """Whether the 95 % interval of two runs' difference over common draws holds 0.

    False where nothing is known to compare, and where the runs' own intervals are apart.
    """
    if not {"conditions", "asked_capacity", *bounds_of(metric)} <= set(one.index) or one["folder"] == other["folder"]:
        return False
    low, high = bounds_of(metric)
    if one[low] > other[high] or other[low] > one[high]:
        return False
    both = pd.DataFrame([one, other]).assign(series=["one", "other"])
    pairs = compared(both, metric, machine=one.get("interval_method") != METHOD).pairs
    return bool(((pairs["difference_low"] <= 0) & (pairs["difference_high"] >= 0)).any())


SHOWN_GAP = 0.5
"""Percent or points below which a lead rounds to nothing."""


def span(values: Iterable[float]) -> str:
    """One number, or the least and the largest of several."""
    values = list(values)
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
    below = [gap for gap in gaps if gap >= 0]
    if not below:
        return ""
    sentence = f"The best rule without a look into the future stays {span(below)} points below Belady's"
    if len(below) == len(gaps):
        return f"{sentence}."
    shares = " and ".join(
        f"{100 * float(share):.4g} %" for share in (ceiling - causal).dropna().index[np.less(gaps, 0)]
    )
    return f"{sentence}; not at {shares} of the experts, where a step demands more than fits or copies come early."


def largest_part(table: pd.DataFrame, words: dict[str, str]) -> str:
    """What takes most of the time of the fastest contender, the one nearest to the usual capacity."""
    live = contenders(one_capacity(table))
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
    """What the time per token of the contenders does from the first value of a knob to the last."""
    factors: list[float] = []
    for _, group in contenders(table).groupby("line", sort=True):
        line = group.dropna(subset=[metric]).sort_values(x)
        if line[x].nunique() > 1 and line[metric].iloc[0] > 0:
            factors.append(float(line[metric].iloc[-1] / line[metric].iloc[0]))
    if not factors:
        return ""
    if min(factors) >= MANY_TIMES:
        change = f"grows {min(factors):.1f} to {max(factors):.1f} times" if len(factors) > 1 else (
            f"grows {factors[0]:.1f} times"
        )  # fmt: skip
    elif max(factors) <= 1:
        change = f"falls by {span(100 * (1 - factor) for factor in factors)} %"
    elif min(factors) >= 1:
        change = f"grows by {span(100 * (factor - 1) for factor in factors)} %"
    else:
        change = f"changes by {100 * (min(factors) - 1):+.0f} to {100 * (max(factors) - 1):+.0f} %"
    return f"From the least to the largest {words} the time per token {change}.{least_between(table, x, metric)}"


def least_between(table: pd.DataFrame, x: str, metric: str) -> str:
    """Where the time of a contender is least at neither end of a knob, and by how much beside the better end."""
    found = []
    for name, group in contenders(table).groupby("line", sort=True):
        means = group.dropna(subset=[metric]).groupby(x)[metric].mean()
        if len(means) < 3:
            continue
        less = 100 * (1 - means.min() / min(means.iloc[0], means.iloc[-1]))
        if less >= SHOWN_LESS:
            found.append((less, f"{name} at {means.idxmin():g}, {less:.1f} % below the better end"))
    listed = [words for _, words in sorted(found, key=lambda one: -one[0])]
    return f" It is least between the ends for {shortlist(listed, MOST_NAMED, '; ')}." if listed else ""


SHOWN_LESS, MOST_NAMED = 0.1, 3
"""Percent below which a best value is no better than an end of its knob; contenders whose best value is named."""
MANY_TIMES = 2.0
