"""What a run would gain if one thing were ideal: the answers of `what_if=true`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.figures.chart_parts import name_rows
from sim.figures.drawing import Drawing, MissingData
from sim.figures.notes import footnote
from sim.figures.style import BLUE, SKY, WIDTH_IN, add_footnote
from sim.results.json_files import read_json
from traces.errors import UserError

FILE = "what_if.json"
SHOWN_RUNS = 6
HOW = "python -m sim run engine=compiled what_if=true"


def scenarios(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run of `collect` and scenario: `scenario`, `tpot_s`, `change`, `refused`, `binding`, `bound`.

    The first row of a run is the run as it is. Raises: MissingData where no run asked what if.
    """
    rows: list[dict[str, Any]] = []
    for _, run in runs.iterrows():
        path = Path(run["folder"]) / FILE
        if path.is_file():
            kept = ("folder", "series", "capacity", "label", "estimated", "trace", "model", "hardware", "batch_size")
            rows += [{key: run[key] for key in kept} | row for row in answers(path)]
    if not rows:
        raise MissingData(f"no run in the folder has a {FILE}: {HOW}")
    return pd.DataFrame(rows)


def answers(path: Path) -> list[dict[str, Any]]:
    """The rows of one what_if.json, the run as it is first. Raises: UserError where the file is broken."""
    try:
        content = read_json(path)
        first = {"scenario": "as it is", "tpot_s": content["baseline"]["tpot_s"], "change": 0.0, "refused": None}
        rows = [first] + [
            {"scenario": row["name"], **{key: row[key] for key in ("tpot_s", "change", "refused")}}
            for row in content["scenarios"]
        ]
        return [row | {"binding": content["binding"], "bound": content["bound"]} for row in rows]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is broken: {error}") from error


def what_if(runs: pd.DataFrame, columns: int = 2) -> Figure:
    """`scenario_bars` of the runs of `collect` that asked what if."""
    return scenario_bars(scenarios(runs), columns)


def scenario_bars(table: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT of every scenario, a panel per run; the change beside each bar, the grey line is the run as it is."""
    groups = [group for _, group in table.groupby("folder", sort=False)][:SHOWN_RUNS]
    wide = 2 if columns == 2 and len(groups) > 1 else 1
    rows = -(-len(groups) // wide)
    height = rows * (0.42 + 0.17 * max(map(len, groups))) + 0.3
    figure = Figure(figsize=(WIDTH_IN[columns], height), layout="constrained")
    panels = figure.subplots(rows, wide, squeeze=False).ravel()
    for place, panel in enumerate(panels):
        if place >= len(groups):
            panel.set_axis_off()
            continue
        _bars(panel, groups[place], named=place % wide == 0)
    for panel in panels[: len(groups)][-wide:]:
        panel.set_xlabel("Time per output token (ms)")
    left_out = table["folder"].nunique() - len(groups)
    note = f" {left_out} more runs are not shown." if left_out else ""
    add_footnote(figure, footnote(table, interval=False) + " Each bar is an exact replay of the model." + note)
    return figure


def _bars(panel: Axes, group: pd.DataFrame, named: bool) -> None:
    values = group["tpot_s"].to_numpy(dtype=np.float64) * 1e3
    colors = [BLUE, *[SKY] * (len(group) - 1)]
    panel.barh(np.arange(len(group)), np.nan_to_num(values), 0.7, color=colors, edgecolor="white", linewidth=0.3)
    for row, (value, change) in enumerate(zip(values, group["change"].astype(float), strict=True)):
        word = "not possible" if np.isnan(value) else f"{value:.3g}" if row == 0 else f"{value:.3g} ({change:+.0%})"
        panel.annotate(word, (np.nan_to_num(value), row), xytext=(2, 0), textcoords="offset points", va="center",
                       fontsize=6)  # fmt: skip
    panel.axvline(values[0], color="#777777", linewidth=0.6, zorder=0.5)
    name_rows(panel, list(group["scenario"]) if named else [""] * len(group))
    first = group.iloc[0]
    panel.set_title(f"{first['series']}, capacity {100 * first['capacity']:.3g} %", loc="left", pad=2, fontsize=7)
    panel.margins(x=0.28)


DRAWINGS = (
    Drawing(
        "what_if",
        "what each run would gain if one thing were ideal",
        what_if,
        heading="What would be gained if",
        place=140,
    ),
)
