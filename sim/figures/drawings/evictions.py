"""Eviction rules compared, everything else equal (SMoE, Fig. 19)."""

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import grouped_bars, legend_above, side_by_side, unique
from sim.figures.drawing import Drawing, MissingData
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, one_capacity
from sim.figures.run_settings import GROUPS, RULES, group_words
from sim.figures.style import add_footnote

OTHERS = [rule for rule in RULES if rule != "eviction"]


def evictions(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate of decode steps and TPOT by eviction rule, a colour per set-up, batch size and workload."""
    runs = comparable(table)
    rules = unique(runs.sort_values("decode.hit_rate"), "eviction") if len(runs) else []
    if len(rules) < 2:
        raise MissingData(
            "figure=evictions needs runs that differ in the eviction rule alone: "
            "python -m sim run -m policy=lru policy/eviction=lru,fifo,lfu,score_window,belady"
        )
    keys = [key for key in GROUPS if runs[key].nunique() > 1]
    names = [", ".join(group_words(run, keys)) for _, run in runs.iterrows()]
    runs = runs.assign(place=names)
    figure, (hits, times) = side_by_side(2, columns)
    places = sorted(set(names))
    grouped_bars(hits, runs, "eviction", "place", "decode.hit_rate", 100.0, places, rules)
    grouped_bars(times, runs, "eviction", "place", "tpot_s.mean", 1e3, places, rules)
    hits.set_ylabel("Hit rate, decode steps (%)")
    times.set_ylabel("Time per output token (ms)")
    for panel in (hits, times):
        panel.set_xticks(range(len(rules)), rules, rotation=30 if max(map(len, rules)) > 6 else 0, ha="right")
    if len(places) > 1:
        legend_above(figure, hits.get_legend_handles_labels())
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs))
    return figure


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """The largest set of runs, at one capacity per set-up, whose other rules are all the same."""
    if not {*RULES, "decode.hit_rate"} <= set(table):
        return table.head(0)
    known = table.dropna(subset=[*RULES, "decode.hit_rate"])
    known = known[~known["policy"].isin(["all_resident", "on_demand"])]
    if known.empty:
        return known
    groups = [group for _, group in known.groupby(OTHERS, sort=True)]
    return one_capacity(max(groups, key=lambda group: group["eviction"].nunique()))


DRAWINGS = (
    Drawing(
        "evictions", "eviction rules, all else equal (SMoE, Fig. 19)", evictions, heading="Eviction rules", place=90
    ),
)
