"""Where a token's time goes."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sim.figures.chart_parts import first_rows, name_rows, rows_in
from sim.figures.drawing import Drawing, MissingData
from sim.figures.notes import footnote
from sim.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, WIDTH_IN, add_footnote
from sim.machine.parts import PARTS

# Word, colour and hatching of each part of a token's time; hatched parts are waits.
PART_LOOK = {
    "attention": ("attention", SKY, ""),
    "expert": ("experts", GREEN, ""),
    "link": ("wait for link", VERMILLION, "////"),
    "cpu": ("wait for CPU", ORANGE, "\\\\\\\\"),
    "launch": ("kernel launches", PURPLE, ""),
    "sync": ("synchronisation", BLACK, ""),
    "host": ("host decisions", BLUE, ""),
}


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
    once = table.drop_duplicates(["capacity", "series"])
    table, note = first_rows(once)
    groups = [(share, group.drop_duplicates("series")) for share, group in table.groupby("capacity")]
    bars = [rows_in([str(name) for name in group[_key(group)]]) for _, group in groups]
    height = 0.65 + sum(bars) + 0.36 * len(groups)
    figure = Figure(figsize=(WIDTH_IN[columns], height), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=[high + 0.08 for high in bars])[
        :, 0
    ]
    for panel, (share, group) in zip(panels, groups, strict=True):
        _draw_bars(panel, group, parts)
        panel.set_title(f"capacity {100 * float(str(share)):.4g} %", loc="left", pad=2)
    panels[-1].set_xlabel("Time per token (ms)")
    looks = [PART_LOOK[part] for part in parts]
    handles = [Patch(facecolor=color, hatch=hatch, edgecolor="white", label=word) for word, color, hatch in looks]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(parts), 4 if columns == 2 else 3))
    add_footnote(figure, footnote(table, interval=False) + note)
    return figure


def _key(table: pd.DataFrame) -> str:
    return "name" if "name" in table else "series"


def _draw_bars(panel: Axes, group: pd.DataFrame, parts: list[str]) -> None:
    rows = np.arange(len(group))
    left = np.zeros(len(group))
    for part in parts:
        _, color, hatch = PART_LOOK[part]
        width = group[f"time_s_per_token.{part}"].fillna(0.0).to_numpy(dtype=np.float64) * 1e3
        panel.barh(rows, width, left=left, height=0.72, color=color, hatch=hatch, edgecolor="white", linewidth=0.3)
        left += width
    for row, total in zip(rows, left, strict=True):
        panel.annotate(
            f"{total:.4g}", (total, row), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    name_rows(panel, [str(name) for name in group[_key(group)]])
    panel.margins(x=0.09)
    panel.set_ylim(len(group) - 0.5, -0.5)


DRAWINGS = (
    Drawing(
        "attribution",
        "where a token's time goes, a stacked bar per policy",
        attribution,
        heading="Where the time goes",
        place=30,
    ),
)
