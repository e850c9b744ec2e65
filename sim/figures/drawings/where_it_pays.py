"""Where one policy beats the best of a set: its relative TPOT over two figures of the machine."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from sim.figures.chart_parts import side_by_side
from sim.figures.drawing import MAP, MissingData, declare
from sim.figures.style import BLACK, BLUE, VERMILLION, add_footnote
from traces.errors import UserError

FILE = "where_it_pays.csv"
AXES = {
    "cpu_ratio": ("An expert on the CPU (times its copy over the link)", 1.0),
    "host_s": ("Host time (ms per layer)", 1e3),
}
"""Label and scale of an axis; any other is shown by its name as it is."""
CELLS = ("batch_size", "x", "y", "setup", "policy", "tpot_s", "rival", "rival_tpot_s", "x_axis", "y_axis", "against")
MARKS = ("mark", "x", "y")
COLOURS = LinearSegmentedColormap.from_list("blue, white, vermillion", (BLUE, "#FFFFFF", VERMILLION))
LEAST_SPAN = 0.05
NAME_ROOM = 0.5, 0.25
"""Places of names, in cells, that are too close for two names."""
HALO = [withStroke(linewidth=1.5, foreground="white")]


def read_map(path: Path) -> pd.DataFrame:
    """where_it_pays.csv: a row per set-up, batch size and machine; rows with `mark` name places of the map.

    Raises: MissingData where there is none, UserError where it lacks a column or a cell of the map.
    """
    file = path if path.is_file() else path / FILE
    if not file.is_file():
        raise MissingData(f"{path} holds no {FILE}: python -m scripts.studies.smoe.where_it_pays writes it")
    table = pd.read_csv(file)
    for name in dict.fromkeys((*CELLS, *MARKS)):
        if name not in table:
            raise UserError(f"{file} lacks the column {name}: it must have {', '.join(dict.fromkeys(CELLS + MARKS))}")
    cells = table[table["mark"].isna()]
    for name in ("x", "y", "tpot_s", "rival_tpot_s"):
        if not pd.api.types.is_numeric_dtype(table[name]) or not (cells[name] >= 0).all():
            raise UserError(f"{file}: the column {name} must hold numbers that are not negative")
    if (cells[["tpot_s", "rival_tpot_s"]] <= 0).any(axis=None):
        raise UserError(f"{file}: every time per token must be above 0")
    names = ["batch_size", "x", "y", "setup"]
    if cells.empty or cells[names].duplicated().any() or len(cells) != cells[names].nunique().prod():
        raise UserError(f"{file}: every batch size and set-up must have one row for each pair of x and y")
    return table


def changes(cells: pd.DataFrame) -> pd.DataFrame:
    """[y, x] mean over set-ups of the policy's TPOT over that of the best of the set, less 1."""
    relative = cells.assign(change=cells["tpot_s"] / cells["rival_tpot_s"] - 1.0)
    return relative.pivot_table(index="y", columns="x", values="change", aggfunc="mean")


@declare(
    "where_it_pays",
    "a policy's TPOT against the best of a set over two figures of the machine",
    source=MAP,
    read=read_map,
    place=210,
)
def where_it_pays(table: pd.DataFrame, columns: int = 2) -> Figure:
    """A panel per batch size: blue where the policy is faster, white line and number where the order flips."""
    cells, marks = table[table["mark"].isna()], table[table["mark"].notna()]
    batches = sorted({int(batch) for batch in cells["batch_size"]})
    grids = {batch: changes(cells[cells["batch_size"] == batch]) for batch in batches}
    span = max(LEAST_SPAN, *(float(np.abs(grid.to_numpy()).max()) for grid in grids.values()))
    norm = TwoSlopeNorm(0.0, -span, span)
    figure, panels = side_by_side(len(batches), columns, 2.75)
    for panel, (batch, grid) in zip(panels, grids.items(), strict=True):
        _heat_map(panel, grid, norm)
        _mark(panel, grid, marks)
        panel.set_title(f"batch\u00a0{batch}", loc="left")
        for name, axis, values in (("x", panel.xaxis, grid.columns), ("y", panel.yaxis, grid.index)):
            label, scale = AXES.get(str(cells[f"{name}_axis"].iloc[0]), (str(cells[f"{name}_axis"].iloc[0]), 1.0))
            axis.set_label_text(label)
            axis.set_ticks(range(len(values)), [f"{float(value) * scale:.3g}" for value in values])
    add_footnote(figure, note(cells), conclusion(cells, grids))
    return figure


def _heat_map(panel: Axes, grid: pd.DataFrame, norm: TwoSlopeNorm) -> None:
    """A cell per pair of values, its change in percent, and the line where it is 0."""
    values = grid.to_numpy()
    panel.imshow(values, cmap=COLOURS, norm=norm, origin="lower", aspect="auto")
    panel.grid(visible=False)
    for (row, column), change in np.ndenumerate(values):
        dark = abs(change) > 0.62 * float(norm.vmax or 1.0)
        behind = {"facecolor": COLOURS(norm(change)), "edgecolor": "none", "pad": 0.8}  # the line stops at the number
        panel.text(column, row + 0.3, f"{100 * change:+.0f}\u00a0%", ha="center", va="center", fontsize=7,
                   color="white" if dark else BLACK, zorder=3, bbox=behind)  # fmt: skip
    if min(values.shape) > 1 and values.min() < 0 < values.max():
        panel.contour(values, levels=[0.0], colors=BLACK, linewidths=1.4, linestyles="--", zorder=2)


def _mark(panel: Axes, grid: pd.DataFrame, marks: pd.DataFrame) -> None:
    """Named machines where they lie between the values of both axes; names that would overlap share a place."""
    places: dict[tuple[float, float], list[str]] = {}
    for _, mark in marks.iterrows():
        x, y = (
            place_of(float(mark["x"]), grid.columns.to_numpy(float)),
            place_of(float(mark["y"]), grid.index.to_numpy(float)),
        )
        panel.plot(
            x, y, marker="o", markersize=3.5, color=BLACK, markeredgecolor="white", markeredgewidth=0.6, zorder=4
        )
        beside = [place for place in places if abs(place[0] - x) < NAME_ROOM[0] and abs(place[1] - y) < NAME_ROOM[1]]
        places.setdefault(beside[0] if beside else (x, y), []).append(str(mark["mark"]))
    for place, names in places.items():
        below = place[1] - round(place[1]) > -0.25  # the number of its cell stands above
        words = panel.annotate(", ".join(names), place, xytext=(0, -4) if below else (-3.5, -1.5),
                               textcoords="offset points", fontsize=6.5, ha="center" if below else "right",
                               va="top" if below else "center", fontweight="bold", zorder=4)  # fmt: skip
        words.set_path_effects([*HALO])


def place_of(value: float, values: NDArray[np.float64]) -> float:
    """Where a value lies along evenly drawn ones, between its neighbours in proportion; at the end what lies beyond."""
    known: NDArray[np.float64] = np.asarray(values, np.float64)
    return float(np.interp(value, known, np.arange(len(known))))


def conclusion(cells: pd.DataFrame, grids: dict[int, pd.DataFrame]) -> str:
    """On how many machines the policy is faster, and by how much."""
    policy, against = cells["policy"].iloc[0], cells["against"].iloc[0]
    said = []
    for batch, grid in grids.items():
        change = grid.to_numpy()
        wins = f"faster at {int((change < 0).sum())} of {change.size} machines"
        said.append(f"batch\u00a0{batch}: {wins}, {100 * change.min():+.0f}\u00a0% to {100 * change.max():+.0f}\u00a0%")
    return f"{policy} against {against}; {'; '.join(said)}."


def note(cells: pd.DataFrame) -> str:
    """Of what the map is."""
    policy = cells["policy"].iloc[0]
    rivals = cells["rival"].value_counts()
    best = ", ".join(f"{name} ({count})" for name, count in rivals.items())
    return (
        "SIMULATED, sizes ESTIMATED. Cells: change of the time per output token, mean over "
        f"{', '.join(dict.fromkeys(map(str, cells['setup'])))}; blue: {policy} is faster; dashed: no difference. "
        f"The best of the set was, with the number of cells: {best}."
    )
