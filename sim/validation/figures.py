"""Figures of a validation: every prediction against what was measured."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.plot_style import LINES, STYLE, WIDTH_IN, add_footnote
from sim.validation.findings import CALIBRATION, Findings, Point

NAME = "predicted_against_measured"
FOOTNOTE = (
    "Abscissa: MEASURED. Ordinate: SIMULATED with FITTED constants. Hollow: a constant was fitted on it. "
    "Bars: 90 % interval of the prediction. The line is equality."
)


def draw(folder: Path, findings: Findings) -> list[str]:
    """Write the figure as PDF and PNG -> names of the PNG files, none where there is nothing to draw."""
    if not findings.points:
        return []
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph it keeps
    with rc_context(STYLE):
        figure = scatter(findings)
        figure.savefig(folder / f"{NAME}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{NAME}.png", dpi=200, metadata={"Software": None})
    return [f"{NAME}.png"]


def scatter(findings: Findings, columns: int = 1) -> Figure:
    """Predicted against measured, one colour and marker per series."""
    figure = Figure(figsize=(WIDTH_IN[columns], 3.1), layout="constrained")
    panel = figure.subplots()
    series = list(dict.fromkeys(point.series for point in findings.points))
    for name, look in zip(series, (LINES[i % len(LINES)] for i in range(len(series))), strict=True):
        points = [point for point in findings.points if point.series == name]
        _draw_points(panel, points, name, look["color"], look["marker"])
    values = np.array([(point.measured, point.predicted) for point in findings.points])
    low, high = float(values.min()), float(values.max())
    if findings.log_axes:
        panel.set_xscale("log")
        panel.set_yscale("log")
    panel.plot([low, high], [low, high], color="#888888", linewidth=0.8, zorder=1)
    panel.set_xlabel(f"Measured ({findings.unit})")
    panel.set_ylabel(f"Predicted ({findings.unit})")
    panel.legend(handlelength=1)
    add_footnote(figure, FOOTNOTE)
    return figure


def _draw_points(panel: Axes, points: list[Point], name: str, color: str, marker: str) -> None:
    for use, filled in ((True, False), (False, True)):
        chosen = [point for point in points if (point.use == CALIBRATION) == use]
        if not chosen:
            continue
        bars = np.array([_reach(point) for point in chosen]).T
        panel.errorbar(
            [point.measured for point in chosen],
            [point.predicted for point in chosen],
            yerr=bars if bars.any() else None,
            linestyle="none",
            marker=marker,
            markersize=4 if len(chosen) < 100 else 2,
            color=color,
            markerfacecolor=color if filled else "white",
            elinewidth=0.8,
            capsize=1.5,
            zorder=2,
            label=name if filled else f"{name}, fitted on",
        )


def _reach(point: Point) -> tuple[float, float]:
    """How far the interval reaches below and above the prediction; 0 where it is not known."""
    low = point.predicted if point.low is None else point.low
    high = point.predicted if point.high is None else point.high
    return max(0.0, point.predicted - low), max(0.0, high - point.predicted)
