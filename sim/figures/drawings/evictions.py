"""Eviction rules compared, everything else equal (SMoE, Fig. 19)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.figures.chart_parts import (
    bar_look,
    by_time,
    error_look,
    grouped_bars,
    known,
    legend_above,
    lengths_of,
    metric_panels,
    name_places,
    numbers,
    title_above,
    unique,
)
from sim.figures.conclusions import best, gap_to_belady
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import bar_fill, place_fill
from sim.figures.notes import footnote
from sim.figures.one_capacity import capacity_sentence, capacity_words, one_capacity
from sim.figures.run_settings import RULES, place_names
from sim.figures.style import add_footnote

OTHERS = [rule for rule in RULES if rule != "eviction"]


@declare("evictions", "eviction rules, all else equal (SMoE, Fig. 19)", heading="Eviction rules", place=90)
def evictions(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate of decode steps and TPOT by eviction rule, a colour per set-up, batch size and workload."""
    runs = comparable(table)
    rules = unique(by_time(runs), "eviction") if len(runs) else []
    if len(rules) < 2:
        raise MissingData(
            "figure=evictions needs runs that differ in the eviction rule alone: "
            "python -m sim run -m policy=lru policy/eviction=lru,fifo,lfu,score_window,belady"
        )
    runs = runs.assign(place=place_names(runs))
    places = sorted(set(runs["place"]))
    figure, panels = metric_panels(columns, "decode.hit_rate", "tpot_s.mean")
    for metric, panel in panels.items():
        if len(places) > 1:
            fills = {place: place_fill(index) for index, place in enumerate(places)}
            grouped_bars(panel, runs, "eviction", "place", metric, fills, rules)
        else:
            for place, rule in enumerate(rules):
                run = runs[runs["eviction"] == rule].head(1)
                _one_bar(panel, run, metric, place)
            name_places(panel, rules)
        panel.set_xticks(range(len(rules)), rules, rotation=30 if max(map(len, rules)) > 6 else 0, ha="right")
    where = capacity_words(runs, table[table["eviction"].isin(rules)])
    if len(places) > 1:
        legend_above(figure, panels["decode.hit_rate"].get_legend_handles_labels(), title=where)
    else:
        title_above(figure, where)
    named = runs.assign(contender=runs["eviction"])
    says = best(named, "decode.hit_rate", "hits most in decode steps", "more than") or gap_to_belady(named)
    says = f"{where}: {says}" if where and says else says
    add_footnote(figure, footnote(runs, interval=True) + capacity_sentence(runs), says)
    return figure


def _one_bar(panel: Axes, run: pd.DataFrame, metric: str, place: int) -> None:
    """The bar of a rule, in its policy's colour."""
    panel.bar(
        place, numbers(run, metric), 0.7, yerr=lengths_of(run, metric), error_kw=error_look(1.5),
        **bar_look(*bar_fill(run)),
    )  # fmt: skip


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """The largest set of runs, at one capacity per set-up, whose other rules are all the same."""
    runs = known(table, *RULES, "decode.hit_rate")
    if len(runs):
        runs = runs[~runs["policy"].isin(["all_resident", "on_demand"])]
    if runs.empty:
        return runs
    groups = [group for _, group in runs.groupby(OTHERS, sort=True)]
    return one_capacity(max(groups, key=lambda group: group["eviction"].nunique()))
