"""Pieces that figures share: panels, bars and lines with intervals, legends."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sim.figures.style import BLACK, BLUE, GREEN, LINES, ORANGE, PURPLE, SKY, VERMILLION, WIDTH_IN, YELLOW

FILLS: tuple[tuple[str, str], ...] = (
    (BLUE, ""), (ORANGE, "////"), (GREEN, ""), (VERMILLION, "\\\\\\\\"), (SKY, ""), (PURPLE, "xxxx"), (YELLOW, ""),
    (BLACK, ""), (BLUE, "...."), (ORANGE, "...."), (GREEN, "////"), (VERMILLION, "...."), (SKY, "xxxx"), (PURPLE, ""),
)  # fmt: skip
"""Colour and hatching of bars, in order: neighbours differ in lightness or in hatching too."""


def grid(rows: int, columns: int, page_columns: int, height_in: float) -> tuple[Figure, NDArray[Any]]:
    """A figure as wide as the page asks and its panels [rows, columns], each `height_in` high."""
    size = (WIDTH_IN[page_columns], height_in * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def side_by_side(count: int, columns: int, height_in: float = 2.35) -> tuple[Figure, NDArray[Any]]:
    """Panels in a row on a wide page, one above the other in one column."""
    shape = (1, count) if columns == 2 else (count, 1)
    figure, panels = grid(*shape, columns, height_in)
    return figure, panels.ravel()


def error_lengths(points: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[Any]:
    """[2, n] lengths of error bars. A percentile interval need not hold the point: a length is never negative."""
    return np.clip(np.stack([points - low, high - points]), 0.0, None)


def numbers(table: pd.DataFrame, column: str, scale: float = 1.0) -> NDArray[np.float64]:
    """A column as numbers times `scale`; NaN throughout where it is missing."""
    if column not in table:
        return np.full(len(table), np.nan)
    return table[column].to_numpy(dtype=np.float64) * scale


def bounds_of(metric: str) -> tuple[str, str]:
    """Names of the columns of a metric's interval."""
    stem = metric.removesuffix(".mean")
    return f"{stem}.low", f"{stem}.high"


def lengths_of(table: pd.DataFrame, metric: str, scale: float) -> NDArray[Any]:
    """Error bars of a metric, [2, n]."""
    low, high = (numbers(table, name, scale) for name in bounds_of(metric))
    return error_lengths(numbers(table, metric, scale), low, high)


def line(panel: Axes, table: pd.DataFrame, x: str, metric: str, scale: float, index: int, label: str) -> None:
    """A line with intervals over the column `x`, in the look of this index."""
    points = table.dropna(subset=[metric]).sort_values(x)
    look = LINES[index % len(LINES)]
    panel.errorbar(
        numbers(points, x), numbers(points, metric, scale), yerr=lengths_of(points, metric, scale),
        **look, capsize=2, elinewidth=0.8, label=label,
    )  # fmt: skip


def grouped_bars(
    panel: Axes, table: pd.DataFrame, across: str, within: str, metric: str, scale: float,
    names: Sequence[str], groups: Sequence[str],
) -> None:  # fmt: skip
    """A bar with interval per value of `within` (colours) in each group of `across` (places)."""
    width = 0.82 / max(1, len(names))
    for index, name in enumerate(names):
        chosen = table[table[within] == name].drop_duplicates(across).set_index(across).reindex(list(groups))
        places = np.arange(len(groups)) + (index - (len(names) - 1) / 2) * width
        color, hatch = FILLS[index % len(FILLS)]
        panel.bar(
            places, numbers(chosen, metric, scale), width, color=color, hatch=hatch, edgecolor="white", linewidth=0.3,
            yerr=lengths_of(chosen, metric, scale), error_kw={"elinewidth": 0.7, "capsize": 1.2, "capthick": 0.7},
            label=name,
        )  # fmt: skip
    panel.set_xticks(range(len(groups)), list(groups))
    panel.tick_params(axis="x", length=0)
    panel.grid(axis="x", visible=False)


def level_bars(panel: Axes, names: Sequence[str], values: NDArray[np.float64], lengths: Any, index: int = 0) -> None:
    """Horizontal bars with intervals, the first name on top."""
    color, hatch = FILLS[index]
    places = np.arange(len(names))
    panel.barh(
        places, values, 0.7, xerr=lengths, color=color, hatch=hatch, edgecolor="white", linewidth=0.3,
        error_kw={"elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7},
    )  # fmt: skip
    name_rows(panel, names)


NAME_WIDTH, ROW_IN, LINE_IN = 34, 0.19, 0.11
"""Letters in a line of a row's name; height of a row, and of every further line of its name."""


def wrapped(name: str, letters: int = NAME_WIDTH) -> str:
    """A name on as many lines as it needs."""
    return "\n".join(textwrap.wrap(name, letters, break_on_hyphens=False))


def rows_in(names: Sequence[str], row_in: float = ROW_IN) -> float:
    """Height of rows with these names, in inches."""
    more = max((wrapped(name).count("\n") for name in names), default=0)
    return len(names) * max(row_in, ROW_IN + LINE_IN * more)


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """Names of horizontal bars, the first one on top."""
    panel.set_yticks(range(len(names)), [wrapped(name) for name in names], linespacing=0.95)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)


def legend_above(figure: Figure, entries: tuple[Sequence[Any], Sequence[Any]], handlelength: float = 2.0) -> None:
    """A legend over all panels, as many names in a row as the width holds; the figure grows by the room it takes."""
    handles, names = entries
    width, height = figure.get_size_inches()
    widest = max(map(len, names), default=1)
    # A letter of 7 points is some 0.058 in wide; handle and gaps take 2.5 + handlelength of 7 points.
    per_row = max(1, int(width / (0.058 * widest + 7 / 72 * (handlelength + 2.5))))
    rows = -(-len(names) // per_row)
    figure.set_size_inches(width, height + LEGEND_ROW_IN * (rows - 1))
    figure.legend(handles, names, loc="outside upper center", ncols=-(-len(names) // rows), handlelength=handlelength)


LEGEND_ROW_IN = 0.15


def first_rows(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most as many runs as a figure can name, those of lowest TPOT, in their order; and what to say of the rest."""
    if len(runs) <= SHOWN_ROWS:
        return runs, ""
    kept = runs.loc[sorted(runs["tpot_s.mean"].nsmallest(SHOWN_ROWS).index)] if "tpot_s.mean" in runs else runs
    kept = kept.head(SHOWN_ROWS)
    return kept, f" {len(runs) - len(kept)} runs of higher TPOT are not shown."


SHOWN_ROWS, SHOWN_LINES = 24, 16


def first_lines(table: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """The runs of at most as many lines as can be told apart, the longest and fastest; what to say of the rest."""
    lines = table.groupby(column).agg(points=("capacity", "nunique"), tpot_s=("tpot_s.mean", "mean"))
    if len(lines) <= SHOWN_LINES:
        return table, ""
    kept = lines.sort_values(["points", "tpot_s"], ascending=[False, True], kind="stable").index[:SHOWN_LINES]
    return table[table[column].isin(kept)], f" {len(lines) - len(kept)} shorter or slower lines are not shown."


def unique(table: pd.DataFrame, column: str) -> list[Any]:
    """The different values of a column in order of appearance, without what is unknown."""
    return list(dict.fromkeys(table[column].dropna())) if column in table else []
