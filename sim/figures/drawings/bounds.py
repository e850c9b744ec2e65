"""What a run would gain if one thing were ideal: the answers of `what_if=true`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sim.figures.chart_parts import AXES, by_time, name_rows, note_beside, numbers, panel_grid, title_above
from sim.figures.conclusions import SHOWN_GAP
from sim.figures.drawing import MissingData, declare
from sim.figures.looks import bar_fill
from sim.figures.notes import footnote
from sim.figures.one_capacity import one_capacity
from sim.figures.style import add_footnote
from sim.results.json_files import read_json
from sim.run.what_if import TOGETHER
from traces.errors import UserError

FILE = "what_if.json"
SHOWN_RUNS = 6
KEPT = (
    "folder", "series", "name", "capacity", "label", "estimated", "trace", "model",
    "hardware", "batch_size",
)  # fmt: skip
HOW = "python -m sim run engine=compiled what_if=true"


def scenarios(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run of `collect` and scenario: `scenario`, `tpot_s`, `change`, `refused`, `binding`, `bound`.

    The first row of a run is the run as it is. Raises: MissingData where no run asked what if.
    """
    rows = [{key: run.get(key) for key in KEPT} | row for _, run in runs.iterrows() for row in answers_of(run)]
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
    shown = shown_runs(runs)
    table = scenarios(shown)
    groups = [group for _, group in table.groupby("folder", sort=False)]
    wide = 2 if columns == 2 and len(groups) > 1 else 1
    figure, panels = panel_grid(len(groups), wide, columns, 0.42 + 0.17 * max(map(len, groups)), 0.3)
    for place, (panel, group) in enumerate(zip(panels, groups, strict=True)):
        color, _ = bar_fill(shown[shown["folder"] == group["folder"].iloc[0]])
        _bars(panel, group, color, named=place % wide == 0)
    for panel in panels[-wide:]:
        panel.set_xlabel(AXES["tpot_s.mean"].label)
    asked = sum((Path(str(folder)) / FILE).is_file() for folder in runs["folder"])
    title_above(figure, f"{len(groups)} of {asked} runs that asked what if" if asked > len(groups) else "")
    note = " Each bar is an exact replay of the model." + PERFECT
    add_footnote(figure, footnote(table, interval=False) + note, most_gained(table))
    return figure


PERFECT = (
    " Perfect prefetch copies all that the next layers will route to, as early as it can: where the link is the limit, "
    "or the policy would have replaced an expert or computed it on the CPU, its copies come too late and cost time."
)


def shown_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose answers are shown: contenders that asked, at the capacity most of them share, fastest first."""
    asked = runs[[(Path(str(folder)) / FILE).is_file() for folder in runs["folder"]]]
    if asked.empty:
        return asked
    live = asked[~asked["bound"].astype(bool)] if "bound" in asked else asked
    chosen = by_time(one_capacity(live if len(live) else asked))
    return chosen.head(SHOWN_RUNS)


def most_gained(table: pd.DataFrame) -> str:
    """What would help the fastest run that is shown most, by one change alone."""
    first = table[table["folder"] == table["folder"].iloc[0]]
    alone = first[~first["scenario"].isin(["as it is", TOGETHER])].dropna(subset=["tpot_s"])
    if alone.empty:
        return ""
    row = alone.iloc[int(np.nanargmin(alone["tpot_s"].to_numpy(np.float64)))]
    change, name = 100 * float(row["change"]), str(row["name"] or row["series"])
    if change > -SHOWN_GAP:
        return f"No single change would make {name} faster by 1 %."
    return f"Of single changes {row['scenario']} would help {name} most: {-change:.0f} % less time per token."


def lighter(color: str) -> tuple[float, ...]:
    """Half way from a colour to white."""
    return tuple((1 + part) / 2 for part in to_rgb(color))


def _bars(panel: Axes, group: pd.DataFrame, color: str, named: bool) -> None:
    values = numbers(group, "tpot_s", 1e3)
    colors = [color, *[lighter(color)] * (len(group) - 1)]
    panel.barh(np.arange(len(group)), np.nan_to_num(values), 0.7, color=colors, edgecolor="white", linewidth=0.3)
    panel.axvline(values[0], color="#777777", linewidth=0.6, zorder=0.5)
    for row, (value, change) in enumerate(zip(values, group["change"].astype(float), strict=True)):
        word = (
            "not possible"
            if np.isnan(value)
            else f"{value:.1f}"
            if row == 0
            else f"{value:.1f} ({100 * change:+.0f} %)"
        )
        note_beside(panel, word, np.nan_to_num(value), row, 6)
    name_rows(panel, list(group["scenario"]) if named else [""] * len(group))
    first = group.iloc[0]
    panel.set_title(
        f"{first['name'] or first['series']}, capacity {100 * first['capacity']:.3g} %", loc="left", pad=2, fontsize=7
    )
    panel.margins(x=0.28)
