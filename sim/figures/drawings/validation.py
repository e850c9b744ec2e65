"""Predicted beside measured times: the table that `python -m sim validate` writes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sim.figures.chart_parts import error_lengths, legend_above, look_of, numbers, plain_ticks, side_by_side, unique
from sim.figures.drawing import VALIDATION, declare
from sim.figures.style import add_footnote
from sim.figures.validation_table import errors, read_validation


@declare("validation", "predicted beside measured times", source=VALIDATION, read=read_validation, place=200)
def validation(table: pd.DataFrame, columns: int = 2) -> Figure:
    """Predicted against measured time of every setting, intervals on both; equal on the line; dotted: 10 % off."""
    figure, (panel,) = side_by_side(1, columns, 3.2)
    ends = [f"{side}_{end}" for side in ("measured", "predicted") for end in ("low", "high")]
    times = np.concatenate([numbers(table, name, 1e3) for name in ("measured_s", "predicted_s", *ends)])
    times = times[np.isfinite(times) & (times > 0)]
    span = np.array([times.min() / 1.25, times.max() * 1.25])
    panel.plot(span, span, color="#777777", linewidth=0.8, label="equal", zorder=0.5)
    for index, factor in enumerate((0.9, 1.1)):
        name = "10 % off" if index == 0 else None
        panel.plot(span, span * factor, color="#999999", linewidth=0.6, linestyle=":", zorder=0.5, label=name)
    series = table["policy"] if "policy" in table else pd.Series("settings", index=table.index)
    for index, name in enumerate(series.dropna().unique()):
        chosen = table[series == name]
        sides = [
            error_lengths(*(numbers(chosen, f"{side}_{end}", 1e3) for end in ("s", "low", "high")))
            for side in ("measured", "predicted")
        ]
        look = look_of(index) | {"linestyle": "none"}
        panel.errorbar(numbers(chosen, "measured_s", 1e3), numbers(chosen, "predicted_s", 1e3), xerr=sides[0],
                       yerr=sides[1], **look, capsize=1.5, elinewidth=0.7, label=str(name))  # fmt: skip
    if span[1] / span[0] > 6:
        panel.set_xscale("log")
        panel.set_yscale("log")
        plain_ticks(panel.xaxis)
        plain_ticks(panel.yaxis)
    panel.set(xlim=span, ylim=span, aspect="equal", xlabel="Measured time (ms)", ylabel="Predicted time (ms)")
    legend_above(figure, panel.get_legend_handles_labels())
    add_footnote(figure, note(table), how_far_off(table))
    return figure


def note(table: pd.DataFrame) -> str:
    """What the points are and how far off they lie."""
    label = "/".join(str(word) for word in unique(table, "label")) if "label" in table else "MEASURED"
    return f"{label} times beside SIMULATED ones, {len(table)} settings, bars: 95\u00a0% intervals."


def how_far_off(table: pd.DataFrame) -> str:
    """The errors of the predictions in one sentence."""
    off = 100 * errors(table).dropna()
    if off.empty:
        return ""
    largest = float(max(off, key=abs))
    return (
        f"Half of the predictions are off by at most {off.abs().median():.1f} %; the largest error is {largest:+.1f} %."
    )
