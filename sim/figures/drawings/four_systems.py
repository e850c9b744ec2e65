"""Whole systems side by side: time, memory, bytes and energy of each."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import bar_look, name_rows, note_beside, side_by_side
from sim.figures.drawing import SYSTEMS, MissingData, declare
from sim.figures.style import BLUE, GREEN, ORANGE, PURPLE, add_footnote
from sim.paths import files_named
from sim.systems.four_systems.run import FILE, best_of, read_table
from traces.errors import UserError
from traces.text import printable

LOOKS = {"all resident": ("#333333", ""), "OD-MoE": (PURPLE, "...."), "Expert Streaming": (GREEN, "\\\\\\\\")}
PANELS = (
    ("tpot_s", "Time per output\ntoken (ms)", 1e3, ".1f"),
    ("memory_bytes", "GPU or on-chip\nmemory (GB)", 1e-9, ".2f"),
    ("link_bytes", "Host link or DDR\n(MB per token)", 1e-6, ".0f"),
    ("energy_j", "Energy, a proxy\n(mJ per token)", 1e3, ".0f"),
)
"""Column, label, scale and digits of each panel."""


def read_systems(path: Path) -> pd.DataFrame:
    """four_systems.csv of a folder, the fastest system first.

    Raises: MissingData where there is none or more than one, UserError for another file.
    """
    files = [path] if path.is_file() else sorted(files_named(path, FILE))
    if not files:
        raise MissingData(f"{path} holds no {FILE}: python -m sim run -m +experiment=four_systems writes it")
    if len(files) > 1:
        raise MissingData(f"{path} holds {len(files)} tables of systems: name the folder of one, as {files[0].parent}")
    rows = read_table(files[0])
    if not rows:
        raise UserError(f"{files[0]} holds no system")
    table = pd.read_csv(files[0]).sort_values("tpot_s", kind="stable", ignore_index=True)
    return table.assign(energy_j=table["energy_j"].astype(float), says=best_of(rows))


@declare("four_systems", "whole systems side by side: time, memory, bytes, energy", source=SYSTEMS, read=read_systems)
def four_systems(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Bars of every system, sorted by time, its variants alike in colour and hatching."""
    figure, panels = side_by_side(len(PANELS), columns, 0.65 + 0.19 * len(table))
    looks = [look_of(str(row["system"]), str(row["parts"])) for _, row in table.iterrows()]
    for panel, (column, label, scale, digits) in zip(panels, PANELS, strict=True):
        values = scale * table[column].to_numpy(np.float64)
        ends = scale * table["tpot_high_s"].to_numpy(np.float64) if column == "tpot_s" else values
        for place, (value, end, look) in enumerate(zip(values, ends, looks, strict=True)):
            panel.barh(place, value, height=0.7, **bar_look(*look))
            note_beside(panel, f"{value:{digits}}", float(np.fmax(value, end)), place, 6)
        panel.set_xlim(0, 1.35 * float(np.nanmax([values, ends])) or 1.0)
        named = panel is panels[0] or columns == 1
        name_rows(panel, [printable(str(name)) if named else "" for name in table["system"]])
        layers = str(table["layers"].iloc[0]) if column == "tpot_s" and "layers" in table else ""
        panel.set_xlabel("\n".join(filter(None, [f"{label}," if layers else label, layers])))
    times = 1e3 * table[["tpot_s", "tpot_low_s", "tpot_high_s"]].to_numpy(np.float64).T
    lengths = np.nan_to_num(np.maximum([times[0] - times[1], times[2] - times[0]], 0))
    panels[0].errorbar(times[0], range(len(table)), xerr=lengths, fmt="none", ecolor="black", elinewidth=0.8)
    settings = [f"{word} {table[word].iloc[0]}" for word in ("model", "hardware") if word in table]
    note = (
        f"SIMULATED: {', '.join([*settings, 'batch 1'])}. Energy is ESTIMATED: bytes and FLOP times fixed figures. "
        "Lines at times: 95\u00a0% over requests or draws. Grey: all experts resident."
    )
    add_footnote(figure, printable(note), str(table["says"].iloc[0]))
    return figure


def look_of(system: str, parts: str) -> tuple[str, str]:
    """Colour and hatching of a system, its variants alike; one GPU blue, the chiplets' baseline orange."""
    for name, look in LOOKS.items():
        if system.startswith(name):
            return look
    return (ORANGE, "////") if "dies" in parts else (BLUE, "")
