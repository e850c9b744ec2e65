"""Pieces that figures share: panels, bars and lines with intervals, legends."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from sim.figures.style import LINES, WIDTH_IN
from sim.results.series import by_number
from sim.results.table import bounds_of


class Axis(NamedTuple):
    """What stands at an axis, and the factor from the table to its unit."""

    label: str
    scale: float = 1.0


AXES = {
    "capacity": Axis("Cache capacity (% of all experts)", 100.0),
    "tpot_s.mean": Axis("Time per output token (ms)", 1e3),
    "itl_s.mean": Axis("Time of a decode step (ms)", 1e3),
    "ttft_s.mean": Axis("Time to first token (ms)", 1e3),
    "hit_rate": Axis("Hit rate, all steps (%)", 100.0),
    "decode.hit_rate": Axis("Hit rate, decode steps (%)", 100.0),
    "decode.cache_ratio": Axis("Cache ratio, decode (%)", 100.0),
    "decode.lost_gate_mass": Axis("Gate mass not executed\nas routed, decode (%)", 100.0),
    "quality.perplexity_ratio": Axis("Perplexity over that\nof exact routing"),
    "decode.prefetch_precision": Axis("Prefetched experts then demanded (%)", 100.0),
    "decode.tokens_per_s": Axis("Tokens per second of decoding"),
    "decode.union_size": Axis("Distinct experts\nper layer step"),
    "reuse": Axis("Routed to again (%)", 100.0),
}
"""How figures show a column of their table; any other is shown as it is."""


def panel_grid(
    count: int, wide: int, page_columns: int, height_in: float, more_in: float = 0.0
) -> tuple[Figure, NDArray[Any]]:
    """A figure as wide as the page asks and `count` panels, each `height_in` high, `wide` of them in a row."""
    rows = -(-count // wide)
    figure = Figure(figsize=(WIDTH_IN[page_columns], height_in * rows + more_in), layout="constrained")
    panels = figure.subplots(rows, wide, squeeze=False).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def side_by_side(count: int, columns: int, height_in: float = 2.35) -> tuple[Figure, NDArray[Any]]:
    """Panels in a row on a wide page, one above the other in one column."""
    return panel_grid(count, count if columns == 2 else 1, columns, height_in)


def metric_panels(columns: int, *metrics: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each metric, side by side, named at its ordinate."""
    figure, panels = side_by_side(len(metrics), columns)
    for panel, metric in zip(panels, metrics, strict=True):
        panel.set_ylabel(AXES[metric].label)
    return figure, dict(zip(metrics, panels, strict=True))


def error_lengths(points: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[Any]:
    """[2, n] lengths of error bars. A percentile interval need not hold the point: a length is never negative."""
    return np.clip(np.stack([points - low, high - points]), 0.0, None)


def known(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows in which all these columns are known; none where the table lacks one."""
    return table.dropna(subset=list(columns)) if set(columns) <= set(table) else table.head(0)


def numbers(table: pd.DataFrame, column: str, scale: float | None = None) -> NDArray[np.float64]:
    """A column as numbers in the unit of its axis, or times `scale`; NaN throughout where it is missing."""
    if column not in table:
        return np.full(len(table), np.nan)
    return table[column].to_numpy(dtype=np.float64) * (scale_of(column) if scale is None else scale)


def scale_of(column: str) -> float:
    """The factor from a column of the table to the unit of its axis."""
    return AXES[column].scale if column in AXES else 1.0


def lengths_of(table: pd.DataFrame, metric: str, scale: float | None = None) -> NDArray[Any]:
    """Error bars of a metric, [2, n]."""
    scale = scale_of(metric) if scale is None else scale
    return error_lengths(*(numbers(table, name, scale) for name in (metric, *bounds_of(metric))))


def line(panel: Axes, table: pd.DataFrame, x: str, metric: str, look: Mapping[str, Any], label: str = "") -> None:
    """A line with intervals over the column `x`."""
    points = table.dropna(subset=[metric]).sort_values(x)
    panel.errorbar(
        numbers(points, x), numbers(points, metric), yerr=lengths_of(points, metric),
        **look, capsize=2, elinewidth=0.8, label=label,
    )  # fmt: skip


def look_of(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the line of this index, where lines are no policies."""
    return LINES[index % len(LINES)]


def bar_look(color: str, hatch: str) -> dict[str, Any]:
    """How a bar of this colour and hatching is drawn."""
    return {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}


def error_look(capsize: float) -> dict[str, float]:
    """How the interval of a bar is drawn."""
    return {"elinewidth": 0.7, "capsize": capsize, "capthick": 0.7}


def bars(
    panel: Axes, table: pd.DataFrame, metric: str, index: int, count: int, label: str, fill: tuple[str, str],
    capsize: float = 1.2,
) -> NDArray[Any]:  # fmt: skip
    """Bars with intervals, one per row, of series `index` of `count` that stand side by side -> their places."""
    width = 0.82 / count
    places = np.arange(len(table)) + (index - (count - 1) / 2) * width
    panel.bar(
        places, numbers(table, metric), width, yerr=lengths_of(table, metric), error_kw=error_look(capsize),
        label=label, **bar_look(*fill),
    )  # fmt: skip
    return places


def grouped_bars(
    panel: Axes, table: pd.DataFrame, across: str, within: str, metric: str,
    fills: Mapping[str, tuple[str, str]], groups: Sequence[str],
) -> None:  # fmt: skip
    """A bar with interval per value of `within` (`fills` names their colours) in each group of `across` (places)."""
    for index, (name, fill) in enumerate(fills.items()):
        chosen = table[table[within] == name].drop_duplicates(across).set_index(across).reindex(list(groups))
        bars(panel, chosen, metric, index, len(fills), name, fill)
    name_places(panel, groups)


def name_places(panel: Axes, names: Sequence[str]) -> None:
    """Names of upright bars or groups of them."""
    panel.set_xticks(range(len(names)), names)
    panel.tick_params(axis="x", length=0)
    panel.grid(axis="x", visible=False)


def level_bars(
    panel: Axes, table: pd.DataFrame, metric: str, look: tuple[str, str],
    scale: float | None = None, height: float = 0.7, shift: float = 0.0, label: str = "",
) -> None:  # fmt: skip
    """Horizontal bars with intervals, one per row, the first row on top; `look`: colour and hatching."""
    panel.barh(
        np.arange(len(table)) + shift, numbers(table, metric, scale), height, xerr=lengths_of(table, metric, scale),
        error_kw=error_look(1.5), label=label, **bar_look(*look),
    )  # fmt: skip


NAME_WIDTH, ROW_IN, LINE_IN = 34, 0.19, 0.11
"""Letters in a line of a row's name; height of a row, and of every further line of its name."""


def wrapped(name: str, letters: int = NAME_WIDTH) -> str:
    """A name on as many lines as it needs."""
    return "\n".join(textwrap.wrap(name, letters, break_on_hyphens=False))


def rows_in(names: Sequence[str], row_in: float = ROW_IN) -> float:
    """Height of rows with these names, in inches."""
    more = max((wrapped(name).count("\n") for name in names), default=0)
    return len(names) * max(row_in, ROW_IN + LINE_IN * more)


def name_column(table: pd.DataFrame) -> str:
    """The column that names runs: `name` where `add_settings` made it."""
    return "name" if "name" in table else "series"


def row_names(runs: pd.DataFrame) -> list[str]:
    """What the rows of horizontal bars are called."""
    return [str(name) for name in runs[name_column(runs)]]


def name_rows(panel: Axes, names: Sequence[str]) -> None:
    """Names of horizontal bars, the first one on top."""
    panel.set_yticks(range(len(names)), [wrapped(name) for name in names], linespacing=0.95)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)


def note_beside(panel: Axes, text: str, end: float, row: float, points: float) -> None:
    """A few letters after the end of a horizontal bar."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    panel.annotate(
        text, (end, row), xytext=(2.5, 0), textcoords="offset points", va="center", fontsize=points, bbox=box
    )


def plain_ticks(axis: XAxis | YAxis) -> None:
    """Numbers without powers of ten on a logarithmic axis."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend_above(
    figure: Figure, entries: tuple[Sequence[Any], Sequence[Any]], handlelength: float = 2.0, title: str = ""
) -> None:
    """A legend over all panels, as many names in a row as the width holds; the figure grows by the room it takes.

    `title`: what the figure leaves out, over the legend.
    """
    handles, names = entries
    width, height = figure.get_size_inches()
    widest = max(map(len, names), default=1)
    # A letter of 7 points is some 0.058 in wide; handle and gaps take 2.5 + handlelength of 7 points.
    per_row = max(1, int(width / (0.058 * widest + 7 / 72 * (handlelength + 2.5))))
    rows = -(-len(names) // per_row)
    title = "\n".join(textwrap.wrap(title, int(width / 0.06)))
    lines = rows - 1 + (title.count("\n") + 1 if title else 0)
    figure.set_size_inches(width, height + LEGEND_ROW_IN * lines)
    columns = -(-len(names) // rows) if names else 1
    figure.legend(
        handles, names, loc="outside upper center", ncols=columns, handlelength=handlelength, title=title or None
    )


def title_above(figure: Figure, title: str) -> None:
    """A title over a figure without a legend; none where there is nothing to say."""
    if title:
        width, height = figure.get_size_inches()
        lines = textwrap.wrap(title, int(width / 0.06))
        figure.set_size_inches(width, height + LEGEND_ROW_IN * len(lines))
        figure.suptitle("\n".join(lines), fontsize=7)


LEGEND_ROW_IN = 0.15


def first_rows(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """At most as many policies as a figure can name, in all of their runs, sorted by time; the title that says so.

    The fastest stay, and those that the others are measured by: the bounds, and LRU or else the slowest.
    """
    runs = by_time(runs)
    column = name_column(runs)
    panels = max(1, runs.groupby(column).size().max() if len(runs) else 1)
    return _kept(runs, column, max(MOST_KEPT, SHOWN_ROWS // panels), "policies")


def by_time(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with the lowest time per token first, or in the order that was asked for."""
    if "order" in runs:
        return runs.sort_values("order", kind="stable")
    return runs.sort_values("tpot_s.mean", kind="stable") if "tpot_s.mean" in runs else runs


SHOWN_ROWS, SHOWN_LINES, MOST_KEPT, MOST_NAMED = 24, 16, 6, 2
BASELINE = "lru"


def first_lines(table: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """The runs of at most as many lines as can be told apart, the longest and fastest; the title that says so."""
    return _kept(table, column, SHOWN_LINES, "lines")


def _kept(table: pd.DataFrame, column: str, count: int, word: str) -> tuple[pd.DataFrame, str]:
    lines = table.groupby(column, sort=False).agg(
        points=("capacity", "nunique"),
        tpot_s=("tpot_s.mean", "mean") if "tpot_s.mean" in table else ("capacity", "size"),
        policy=("policy", "first") if "policy" in table else (column, "first"),
        bound=("bound", "first") if "bound" in table else ("capacity", lambda _: False),
    )
    free = lines["bound"].astype(bool) & (lines["points"] == 1) & (lines["points"].max() > 1)  # a row in one panel
    once, lines = lines[free], lines[~free]
    if len(lines) <= count:
        return table, ""
    ranked = lines.sort_values(["points", "tpot_s"], ascending=[False, True], kind="stable")
    needed = ranked["bound"].astype(bool) | (ranked["policy"] == BASELINE)
    if not (ranked["policy"] == BASELINE).any():
        needed.iloc[int(np.argmax(ranked["tpot_s"].to_numpy(np.float64)))] = True
    first = [*ranked.index[needed][:count], *ranked.index[~needed]][:count]
    kept = table[table[column].isin([*first, *once.index])]
    others = [str(name) for name in ranked.index if name not in first]
    named = f"; left out: {', '.join(others)}" if len(others) <= MOST_NAMED else ""
    return kept, f"The fastest {count} of {len(lines)} {word}, bounds and baseline among them{named}"


def in_order(table: pd.DataFrame, column: str) -> list[Any]:
    """The different values of a column by name, or in the order that was asked for."""
    key = "order" if "order" in table else column
    return unique(table.sort_values(key, kind="stable", key=by_number), column)


def unique(table: pd.DataFrame, column: str) -> list[Any]:
    """The different values of a column in order of appearance, without what is unknown."""
    return list(dict.fromkeys(table[column].dropna())) if column in table else []
