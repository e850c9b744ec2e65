"""Hit rate and time per token against the cache's capacity, and how far causal rules stay below Belady's."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sim.figures.chart_parts import first_lines, legend_above, lengths_of, numbers, side_by_side, unique
from sim.figures.drawing import Drawing, MissingData
from sim.figures.notes import footnote
from sim.figures.style import BLACK, LINES, add_footnote

FUTURE = {
    "belady": {"color": BLACK, "linestyle": "-", "marker": "*"},
    "belady_admit": {"color": "#666666", "linestyle": "--", "marker": "x"},
    "latency_oracle": {"color": "#999999", "linestyle": ":", "marker": "+"},
}
"""Eviction rules that see the future, in grey: Belady's with bypass, with forced admission, and weighed by cost."""


def capacity(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate and time per output token against cache capacity: one line per series, bars are 95 % intervals.

    A series whose capacity is nothing or everything (`on_demand`, `all_resident`) does not depend on the axis and is
    drawn as a level line.
    """
    if table.loc[table["capacity"].between(0, 1, inclusive="neither"), "capacity"].nunique() < 2:
        raise MissingData(
            "figure=capacity needs runs at two capacities at least: "
            "python -m sim run -m policy=lru,importance cache.fraction=0.125,0.25,0.5"
        )
    table, note = first_lines(table, _key(table))
    figure, panels = side_by_side(2, columns)
    for panel in panels:
        panel.sharex(panels[0])
    draw_lines(panels[0], table, "hit_rate", 100.0)
    draw_lines(panels[1], table, "tpot_s.mean", 1e3)
    panels[0].set_ylabel("Hit rate (%)")
    panels[0].set_ylim(0, 102)
    panels[1].set_ylabel("Time per output token (ms)")
    slowest_s = float(np.nan_to_num(table[["tpot_s.mean", "tpot_s.high"]].to_numpy(dtype=np.float64)).max())
    panels[1].set_ylim(0, 1.08e3 * slowest_s or 1.0)  # 1: a replay without a clock has no times
    for panel in panels if columns == 2 else panels[1:]:
        panel.set_xlabel("Cache capacity (% of all experts)")
    legend_above(figure, panels[0].get_legend_handles_labels(), handlelength=3)
    add_footnote(figure, footnote(table, interval=True) + note)
    return figure


def hit_rates(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate of decode steps against capacity, rules that see the future in grey, the gap to Belady's shaded.

    Raises: MissingData without at least two capacities.
    """
    curves = table[table["capacity"].between(0, 1, inclusive="neither")]
    known = "decode.hit_rate" in curves and curves["decode.hit_rate"].notna().any()
    if not known or curves["capacity"].nunique() < 2:
        raise MissingData(
            "figure=hit_rates needs runs at two capacities at least: "
            "python -m sim run -m policy=lru,belady,belady_admit cache.fraction=0.125,0.25,0.5"
        )
    curves, left_out = first_lines(curves, _key(curves))
    figure, (panel,) = side_by_side(1, columns, 2.6)
    draw_lines(panel, curves, "decode.hit_rate", 100.0)
    _shade_gap(panel, curves)
    panel.set_xlabel("Cache capacity (% of all experts)")
    panel.set_ylabel("Hit rate, decode steps (%)")
    panel.set_ylim(0, 102)
    legend_above(figure, panel.get_legend_handles_labels(), handlelength=3)
    note = " Grey: rules that see the future." if set(unique(curves, "eviction")) & set(FUTURE) else ""
    add_footnote(figure, footnote(curves, interval=True) + note + left_out)
    return figure


def draw_lines(panel: Axes, table: pd.DataFrame, metric: str, scale: float) -> None:
    """A line per series over capacity, level where the series does not depend on it."""
    taken = 0
    for name, group in table.groupby(_key(table), sort=True):
        future_look = FUTURE.get(str(group["eviction"].iloc[0])) if "eviction" in group else None
        look = future_look or LINES[taken % len(LINES)]
        taken += future_look is None
        runs = group.dropna(subset=[metric]).drop_duplicates("capacity")
        points = numbers(runs, metric, scale)
        if len(points) == 1 and float(runs["capacity"].iloc[0]) in (0.0, 1.0):
            panel.axhline(points[0], **{**look, "marker": None}, linewidth=0.9, label=str(name))
            continue
        at, lengths = numbers(runs, "capacity", 100.0), lengths_of(runs, metric, scale)
        panel.errorbar(at, points, yerr=lengths, **look, capsize=2, elinewidth=0.8, label=str(name))
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))


def _key(table: pd.DataFrame) -> str:
    return "name" if "name" in table else "series"


def _shade_gap(panel: Axes, table: pd.DataFrame) -> None:
    """The area between Belady's rule and the best rule that does not see the future."""
    if "eviction" not in table:
        return
    sees_future = table["eviction"].isin(list(FUTURE))
    ceiling = table[table["eviction"] == "belady"].groupby("capacity")["decode.hit_rate"].max()
    causal = table[~sees_future].groupby("capacity")["decode.hit_rate"].max()
    shared = ceiling.index.intersection(causal.index)
    if len(shared) > 1:
        at = shared.to_numpy(dtype=np.float64) * 100
        low, high = (side.loc[shared].to_numpy(dtype=np.float64) * 100 for side in (causal, ceiling))
        panel.fill_between(at, low, high, where=high >= low, color="#EEEEEE", label="gap to Belady", zorder=0)


DRAWINGS = (
    Drawing(
        "capacity",
        "hit rate and TPOT against cache capacity, a line per policy",
        capacity,
        heading="Capacity",
        place=10,
    ),
    Drawing(
        "hit_rates",
        "decode hit rate against capacity beside Belady and its variants",
        hit_rates,
        heading="Hit rate beside Belady's",
        place=20,
    ),
)
