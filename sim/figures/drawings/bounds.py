"""What a run would gain if one thing were ideal: the answers of `what_if=true`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.figures.chart_parts import AXES, name_rows, note_beside, numbers, panel_grid
from sim.figures.drawing import MissingData, declare
from sim.figures.notes import footnote
from sim.figures.style import BLUE, SKY, add_footnote
from sim.results.json_files import read_json
from traces.errors import UserError

FILE = "what_if.json"
SHOWN_RUNS = 6
KEPT = ("folder", "series", "capacity", "label", "estimated", "trace", "model", "hardware", "batch_size")
HOW = "python -m sim run engine=compiled what_if=true"


def scenarios(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run of `collect` and scenario: `scenario`, `tpot_s`, `change`, `refused`, `binding`, `bound`.

    The first row of a run is the run as it is. Raises: MissingData where no run asked what if.
    """
    rows = [{key: run[key] for key in KEPT} | row for _, run in runs.iterrows() for row in answers_of(run)]
    if not rows:
        raise MissingData(f"no run in the folder has a {FILE}: {HOW}")
    return pd.DataFrame(rows)


def answers_of(run: Any) -> list[dict[str, Any]]:
    """`answers` of a run of `collect`; none where it did not ask."""
    path = Path(run["folder"]) / FILE
    return answers(path) if path.is_file() else []


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


@declare("what_if", "what each run would gain if one thing were ideal", heading="What would be gained if", place=140)
def what_if(runs: pd.DataFrame, columns: int = 2) -> Figure:
    """TPOT of every scenario, a panel per run; the change beside each bar, the grey line is the run as it is."""
    table = scenarios(runs)
    groups = [group for _, group in table.groupby("folder", sort=False)][:SHOWN_RUNS]
    wide = 2 if columns == 2 and len(groups) > 1 else 1
    figure, panels = panel_grid(len(groups), wide, columns, 0.42 + 0.17 * max(map(len, groups)), 0.3)
    for place, (panel, group) in enumerate(zip(panels, groups, strict=True)):
        _bars(panel, group, named=place % wide == 0)
    for panel in panels[-wide:]:
        panel.set_xlabel(AXES["tpot_s.mean"].label)
    left_out = table["folder"].nunique() - len(groups)
    note = f" {left_out} more runs are not shown." if left_out else ""
    add_footnote(figure, footnote(table, interval=False) + " Each bar is an exact replay of the model." + note)
    return figure


def _bars(panel: Axes, group: pd.DataFrame, named: bool) -> None:
    values = numbers(group, "tpot_s", 1e3)
    colors = [BLUE, *[SKY] * (len(group) - 1)]
    panel.barh(np.arange(len(group)), np.nan_to_num(values), 0.7, color=colors, edgecolor="white", linewidth=0.3)
    for row, (value, change) in enumerate(zip(values, group["change"].astype(float), strict=True)):
        word = "not possible" if np.isnan(value) else f"{value:.3g}" if row == 0 else f"{value:.3g} ({change:+.0%})"
        note_beside(panel, word, np.nan_to_num(value), row, 6)
    panel.axvline(values[0], color="#777777", linewidth=0.6, zorder=0.5)
    name_rows(panel, list(group["scenario"]) if named else [""] * len(group))
    first = group.iloc[0]
    panel.set_title(f"{first['series']}, capacity {100 * first['capacity']:.3g} %", loc="left", pad=2, fontsize=7)
    panel.margins(x=0.28)
