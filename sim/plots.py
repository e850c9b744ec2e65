"""Figures of one or more runs: each is a function of the table that `sim.results.collect` makes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sim.plot_style import BLACK, BLUE, GREEN, LINES, ORANGE, PURPLE, SKY, STYLE, VERMILLION, WIDTH_IN, add_footnote
from sim.results import PARTS, collect
from sim.timeline_figure import timeline, timeline_file
from traces.errors import UserError

__all__ = ["FIGURES", "attribution", "capacity", "collect", "default_figures", "draw", "footnote", "save", "timeline"]

# Word, colour and hatching of each part of a token's time; hatched parts are waits.
_PART_LOOK = {
    "attention": ("attention", SKY, ""),
    "expert": ("experts", GREEN, ""),
    "link": ("wait for link", VERMILLION, "////"),
    "cpu": ("wait for CPU", ORANGE, "\\\\\\\\"),
    "launch": ("kernel launches", PURPLE, ""),
    "sync": ("synchronisation", BLACK, ""),
    "host": ("host decisions", BLUE, ""),
}


def capacity(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Hit rate and time per output token against cache capacity: one line per series, bars are 95 % intervals.

    A series whose capacity is nothing or everything (`on_demand`, `all_resident`) does not depend on the axis and is
    drawn as a level line.
    """
    side_by_side = columns == 2
    size = (WIDTH_IN[columns], 2.3 if side_by_side else 4.1)
    figure = Figure(figsize=size, layout="constrained")
    shape = (1, 2) if side_by_side else (2, 1)
    panels = figure.subplots(*shape, sharex=True, squeeze=False).ravel()
    _draw_lines(panels[0], table, "hit_rate", 100.0)
    _draw_lines(panels[1], table, "tpot_s", 1e3)
    panels[0].set_ylabel("Hit rate (%)")
    panels[0].set_ylim(0, 102)
    panels[1].set_ylabel("Time per output token (ms)")
    slowest_s = float(np.nan_to_num(table[["tpot_s.mean", "tpot_s.high"]].to_numpy(dtype=np.float64)).max())
    panels[1].set_ylim(0, 1.08e3 * slowest_s or 1.0)  # 1: a replay without a clock has no times
    for panel in panels if side_by_side else panels[1:]:
        panel.set_xlabel("Cache capacity (% of all experts)")
    handles, names = panels[0].get_legend_handles_labels()
    per_row = max(1, int(size[0] * 18 / (max(map(len, names)) + 6)))
    figure.legend(handles, names, loc="outside upper center", ncols=min(per_row, len(names)), handlelength=3)
    add_footnote(figure, footnote(table, interval=True))
    return figure


def attribution(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Where a token's time goes: a stacked bar per series, a panel per capacity.

    Each part is `time_s_per_token.<part>`, averaged over decode steps; the parts sum to the time per token.

    Raises: UserError when no run in the table has its time attributed.
    """
    parts = [part for part in PARTS if table.get(f"time_s_per_token.{part}", pd.Series(dtype=float)).sum() > 0]
    if not parts:
        raise UserError("no run in the folder has its time attributed: metrics.json lacks time_s_per_token.<part>")
    groups = [(share, group.drop_duplicates("series")) for share, group in table.groupby("capacity")]
    bars = [len(group) for _, group in groups]
    height = 0.65 + 0.19 * sum(bars) + 0.36 * len(groups)
    figure = Figure(figsize=(WIDTH_IN[columns], height), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=[n + 0.4 for n in bars])[:, 0]
    for panel, (share, group) in zip(panels, groups, strict=True):
        _draw_bars(panel, group, parts)
        panel.set_title(f"capacity {100 * float(str(share)):.4g} %", loc="left", pad=2)
    panels[-1].set_xlabel("Time per token (ms)")
    looks = [_PART_LOOK[part] for part in parts]
    handles = [Patch(facecolor=color, hatch=hatch, edgecolor="white", label=word) for word, color, hatch in looks]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(parts), 4 if columns == 2 else 3))
    add_footnote(figure, footnote(table, interval=False))
    return figure


def steps_of_a_run(table: pd.DataFrame, columns: int = 2, steps: tuple[int, int] | None = None) -> Figure:
    """`sim.timeline_figure.timeline` with what a reader must know below it."""
    figure = timeline(table, columns, steps)
    path = timeline_file(table)
    run = table[[Path(str(folder)) == path.parent for folder in table["folder"]]] if path else table
    policy = f"policy {run['policy'].iloc[0]}, capacity {100 * float(run['capacity'].iloc[0]):.4g} %, "
    label, _, rest = footnote(run, interval=False).partition(": ")
    add_footnote(figure, f"{label}: {policy}{rest}")
    return figure


FIGURES: dict[str, Callable[..., Figure]] = {
    "capacity": capacity,
    "attribution": attribution,
    "timeline": steps_of_a_run,
}


def default_figures(table: pd.DataFrame) -> list[str]:
    """The figures that the runs of a table give: the timeline only where one was kept."""
    return [name for name in FIGURES if name != "timeline" or timeline_file(table) is not None]


def draw(table: pd.DataFrame, name: str, columns: int, out: Path, steps: tuple[int, int] | None = None) -> list[Path]:
    """Draw the figure `name` of the table and write it to the folder `out` as PDF and PNG; the files written.

    `steps`: for the timeline, the first and the last step to show.
    """
    more = {"steps": steps} if name == "timeline" else {}
    with rc_context(STYLE):
        return save(FIGURES[name](table, columns, **more), out / name)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as `stem`.pdf and `stem`.png (300 dpi), the same bytes for the same figure: no time in either."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_suffix(".pdf"), stem.with_suffix(".png")
    figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png, dpi=300)
    return [pdf, png]


def footnote(table: pd.DataFrame, interval: bool) -> str:
    """What a reader must know to judge the figure: label, what was run, intervals, and what is only estimated."""
    label = "/".join(sorted({str(label) for label in table["label"]}))
    said = [f"{key} {values[0]}" for key in ("trace", "model", "hardware") if len(values := _values(table, key)) == 1]
    batch = _values(table, "batch_size")
    said += [f"batch size {batch[0]}"] if len(batch) == 1 else []
    text = f"{label}: {', '.join(said)}."
    if interval:
        counts = sorted({int(count) for count in table["requests"]})
        blocks = "requests" if batch == ["1"] else "batches of requests"
        text += f" Bars: 95\u00a0% bootstrap over {' or '.join(map(str, counts))} {blocks}."
    sentences = dict.fromkeys(sentence for one in table["estimated"] for sentence in one)
    return " ".join([text, *(f"ESTIMATED: {sentence.rstrip('.')}." for sentence in sentences)])


def _values(table: pd.DataFrame, key: str) -> list[str]:
    return sorted({str(value) for value in table[key] if value is not None}) if key in table else []


def _draw_lines(panel: Axes, table: pd.DataFrame, metric: str, scale: float) -> None:
    value = "tpot_s.mean" if metric == "tpot_s" else metric
    for index, (name, group) in enumerate(table.groupby("series", sort=True)):
        look = LINES[index % len(LINES)]
        runs = group.dropna(subset=[value]).drop_duplicates("capacity")
        points = runs[value].to_numpy(dtype=np.float64) * scale
        if len(points) == 1 and float(runs["capacity"].iloc[0]) in (0.0, 1.0):
            panel.axhline(points[0], **{**look, "marker": None}, linewidth=0.9, label=str(name))
            continue
        # A percentile interval need not hold the point itself when requests are few: a bar never has negative length.
        bounds = [runs[f"{metric}.{end}"].to_numpy(dtype=np.float64) * scale for end in ("low", "high")]
        lengths: Any = np.clip(np.stack([points - bounds[0], bounds[1] - points]), 0.0, None)
        at = runs["capacity"].to_numpy(dtype=np.float64) * 100
        panel.errorbar(at, points, yerr=lengths, **look, capsize=2, elinewidth=0.8, label=str(name))
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))


def _draw_bars(panel: Axes, group: pd.DataFrame, parts: list[str]) -> None:
    rows = np.arange(len(group))
    left = np.zeros(len(group))
    for part in parts:
        _, color, hatch = _PART_LOOK[part]
        width = group[f"time_s_per_token.{part}"].fillna(0.0).to_numpy(dtype=np.float64) * 1e3
        panel.barh(rows, width, left=left, height=0.72, color=color, hatch=hatch, edgecolor="white", linewidth=0.3)
        left += width
    for row, total in zip(rows, left, strict=True):
        panel.annotate(
            f"{total:.4g}", (total, row), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    panel.set_yticks(rows, [str(name) for name in group["series"]])
    panel.set_ylim(len(group) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)
    panel.margins(x=0.09)
