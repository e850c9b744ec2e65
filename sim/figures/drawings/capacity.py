"""Hit rate and time per token against the cache's capacity, and how far causal rules stay below Belady's."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from sim.figures.chart_parts import (
    AXES,
    first_lines,
    in_order,
    known,
    legend_above,
    line,
    metric_panels,
    name_column,
    numbers,
    side_by_side,
)
from sim.figures.conclusions import fastest, gap_to_belady
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import line_look
from sim.figures.notes import footnote
from sim.figures.rates import add_rates
from sim.figures.style import add_footnote


@declare("capacity", "hit rate and TPOT against cache capacity, a line per policy", heading="Capacity", place=10)
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
    table, title = first_lines(table, name_column(table))
    rate = "hit_rate" if known(table, "decode.hit_rate").empty else "decode.hit_rate"
    figure, panels = metric_panels(columns, rate, "tpot_s.mean")
    hits, times = panels.values()
    times.sharex(hits)
    for metric, panel in panels.items():
        draw_lines(panel, table, metric)
    hits.set_ylim(0, 102)
    slowest_s = float(np.nan_to_num(table[["tpot_s.mean", "tpot_s.high"]].to_numpy(dtype=np.float64)).max())
    times.set_ylim(0, 1.08e3 * slowest_s or 1.0)  # 1: a replay without a clock has no times
    add_rates(times, table, "tpot_s.mean")
    for panel in (hits, times) if columns == 2 else (times,):
        panel.set_xlabel(AXES["capacity"].label)
    legend_above(figure, hits.get_legend_handles_labels(), handlelength=3, title=title)
    add_footnote(figure, footnote(table, interval=True), fastest(table))
    return figure


@declare(
    "hit_rates",
    "decode hit rate against capacity beside Belady and its variants",
    heading="Hit rate beside Belady's",
    place=20,
)
def hit_rates(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate of decode steps against capacity, rules that see the future in grey, the gap to Belady's shaded.

    Raises: MissingData without at least two capacities.
    """
    curves = table[table["capacity"].between(0, 1, inclusive="neither")]
    if known(curves, "decode.hit_rate").empty or curves["capacity"].nunique() < 2:
        raise MissingData(
            "figure=hit_rates needs runs at two capacities at least: "
            "python -m sim run -m policy=lru,belady,belady_admit cache.fraction=0.125,0.25,0.5"
        )
    curves, title = first_lines(curves, name_column(curves))
    figure, (panel,) = side_by_side(1, columns, 2.6)
    draw_lines(panel, curves, "decode.hit_rate")
    _shade_gap(panel, curves)
    panel.set(xlabel=AXES["capacity"].label, ylabel=AXES["decode.hit_rate"].label, ylim=(0, 102))
    legend_above(figure, panel.get_legend_handles_labels(), handlelength=3, title=title)
    note = " Grey: rules that see the future." if curves["bound"].any() else ""
    add_footnote(figure, footnote(curves, interval=True) + note, gap_to_belady(curves))
    return figure


def draw_lines(panel: Axes, table: pd.DataFrame, metric: str) -> None:
    """A line per series over capacity, level where the series does not depend on it."""
    column = name_column(table)
    named = in_order(table, column)
    for place, name in enumerate(named):
        group = table[table[column] == name]
        look = line_look(group)
        runs = group.dropna(subset=[metric]).drop_duplicates("capacity")
        if len(runs) == 1 and float(runs["capacity"].iloc[0]) in (0.0, 1.0):
            level = numbers(runs, metric)[0]
            panel.axhline(level, color=look["color"], linestyle=look["linestyle"], linewidth=0.9, label=str(name))
        else:
            line(panel, runs, "capacity", metric, look | beside(panel, place, len(named)), str(name))
    swept: NDArray[np.float64] = 100 * np.unique(
        table.loc[table["capacity"].between(0, 1, inclusive="neither"), "capacity"]
    )
    if len(swept) > 1:  # lines drawn aside do not count where an axis finds its own limits
        panel.set_xlim(swept[0] - MARGIN * np.ptp(swept), swept[-1] + MARGIN * np.ptp(swept))
    if 1 < len(swept) <= MOST_TICKS and np.diff(swept).min() > LEAST_GAP * np.ptp(swept):
        panel.set_xticks(swept, [f"{share:.3g}" for share in swept])
    else:
        panel.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))


MOST_TICKS, LEAST_GAP, MARGIN = 6, 0.1, 0.07
"""Capacities that are ticks themselves: so many at most, so far apart as a share of the axis; room at its ends."""
DODGE_POINTS, MOST_DODGE = 2.0, 10.0
"""Between markers at the same capacity, and between the first and the last."""


def beside(panel: Axes, place: int, count: int) -> dict[str, Any]:
    """Where the line at a place of `count` is drawn: a point or two aside, so that equal ones stay visible."""
    step = min(DODGE_POINTS, MOST_DODGE / max(1, count - 1))
    aside = (place - (count - 1) / 2) * step / 72
    figure = panel.get_figure(root=True)
    assert figure is not None
    return {"transform": panel.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)}


def _shade_gap(panel: Axes, table: pd.DataFrame) -> None:
    """The area between Belady's rule and the best rule that does not see the future."""
    if "eviction" not in table:
        return
    ceiling = table[table["eviction"] == "belady"].groupby("capacity")["decode.hit_rate"].max()
    causal = table[~table["bound"]].groupby("capacity")["decode.hit_rate"].max()
    gap = 100 * pd.concat({"low": causal, "high": ceiling}, axis=1, join="inner").astype(np.float64)
    if len(gap) > 1:
        at, low, high = 100 * gap.index.to_numpy(dtype=np.float64), gap["low"], gap["high"]
        panel.fill_between(at, low, high, where=high >= low, color="#EEEEEE", label="gap to Belady", zorder=0)
