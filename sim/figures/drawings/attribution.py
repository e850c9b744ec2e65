"""Where a token's time goes."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sim.figures.chart_parts import (
    bar_look,
    by_time,
    first_rows,
    legend_above,
    name_rows,
    note_beside,
    numbers,
    row_names,
    rows_in,
)
from sim.figures.conclusions import largest_part
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.one_capacity import USUAL_CAPACITY
from sim.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, WIDTH_IN, add_footnote
from sim.machine.parts import PARTS

# Word, colour and hatching of each part of a token's time; hatched parts are waits.
PART_LOOK = {
    "attention": ("attention", SKY, ""),
    "expert": ("experts", GREEN, ""),
    "link": ("waiting for the link", VERMILLION, "////"),
    "cpu": ("waiting for the CPU", ORANGE, "\\\\\\\\"),
    "launch": ("kernel launches", PURPLE, ""),
    "sync": ("synchronisation", BLACK, ""),
    "host": ("host decisions", BLUE, ""),
    "storage": ("waiting for the last tier", "#8C6D31", "...."),
}


MOST_PANELS = 4
"""Capacities that one figure shows: it has to fit a page."""


@declare("attribution", "where a token's time goes, a stacked bar per policy", heading="Where the time goes", place=30)
def attribution(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Where a token's time goes: a stacked bar per series, a panel per capacity.

    Each part is `time_s_per_token.<part>`, averaged over decode steps; the parts sum to the time per token.

    Raises: MissingData when no run in the table has its time attributed.
    """
    parts = [part for part in PARTS if table.get(f"time_s_per_token.{part}", pd.Series(dtype=float)).sum() > 0]
    if not parts:
        raise MissingData(
            "no run in the folder has its time attributed: metrics.json lacks time_s_per_token.<part>, "
            "which python -m sim run engine=compiled gives"
        )
    shown, fewer = first_capacities(table.drop_duplicates(["capacity", "series"]))
    table, title = first_rows(shown)
    title = "; ".join(filter(None, [title, fewer]))
    groups = [(share, by_time(group)) for share, group in table.groupby("capacity")]
    bars = [rows_in(row_names(group)) for _, group in groups]
    height = 0.65 + sum(bars) + 0.36 * len(groups)
    figure = Figure(figsize=(WIDTH_IN[columns], height), layout="constrained")
    ratios = [high + 0.08 for high in bars]
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=ratios).ravel()
    for panel, (share, group) in zip(panels, groups, strict=True):
        _draw_bars(panel, group, parts)
        panel.set_title(capacity_title(float(str(share))), loc="left", pad=2)
    panels[-1].set_xlabel("Time per decode token (ms)")
    looks = [PART_LOOK[part] for part in parts]
    handles = [Patch(facecolor=color, hatch=hatch, edgecolor="white", label=word) for word, color, hatch in looks]
    legend_above(figure, (handles, [word for word, _, _ in looks]), title=title)
    words = {part: PART_LOOK[part][0] for part in parts}
    add_footnote(figure, footnote(table, interval=False), largest_part(shown, words))
    return figure


def first_capacities(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The runs at a few capacities, evenly spread, the usual one among them; the title that says so.

    Bounds that keep nothing or everything stay, each of them once.
    """
    inner = table["capacity"].between(0, 1, inclusive="neither")
    shares = sorted(set(table.loc[inner, "capacity"].astype(float)))
    if len(shares) <= MOST_PANELS:
        return table, ""
    usual = min(shares, key=lambda share: abs(share - USUAL_CAPACITY))
    others = [share for share in shares if share != usual]
    chosen = {usual, *(others[int(place)] for place in np.linspace(0, len(others) - 1, MOST_PANELS - 1))}
    idle = ~inner & (table.groupby("series")["capacity"].transform("nunique") == 1)
    return table[table["capacity"].isin(chosen) | idle], f"{MOST_PANELS} of {len(shares)} capacities"


def capacity_title(share: float) -> str:
    """What stands over the bars of one capacity."""
    return {0.0: "no cache", 1.0: "all experts resident"}.get(share, f"capacity {100 * share:.4g} % of the experts")


def _draw_bars(panel: Axes, group: pd.DataFrame, parts: list[str]) -> None:
    rows = np.arange(len(group))
    left = np.zeros(len(group))
    for part in parts:
        _, color, hatch = PART_LOOK[part]
        width = np.nan_to_num(numbers(group, f"time_s_per_token.{part}", 1e3))
        panel.barh(rows, width, left=left, height=0.72, **bar_look(color, hatch))
        left += width
    for row, total in zip(rows, left, strict=True):
        note_beside(panel, f"{total:.2f}", total, float(row), 6.5)
    name_rows(panel, row_names(group))
    panel.margins(x=0.09)
