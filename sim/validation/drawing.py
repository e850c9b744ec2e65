"""Figures of a validation: every prediction against what was measured."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.figures.saving import write_figure
from sim.figures.style import BLUE, LINES, WIDTH_IN, add_footnote
from sim.figures.text_of_others import figure_style
from sim.validation.findings import CALIBRATION, Findings, Point

NAME = "predicted_against_measured"
ERRORS = "errors"
FOOTNOTE = (
    "Abscissa: measured, labelled in the report. Ordinate: SIMULATED with FITTED constants. "
    "Hollow: a constant was fitted on it. Bars: 90 % interval of the prediction. The line is equality."
)

FOOTNOTE_ERRORS = (
    "Error of the SIMULATED mean time per token beside the mean of the repeats. Bars: 90 % interval of the prediction; "
    "where it covers 0 the measured mean lies inside."
)


def draw(folder: Path, findings: Findings) -> list[str]:
    """Write the figure as PDF and PNG -> names of the PNG files, none where there is nothing to draw."""
    if not findings.points:
        return []
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph it keeps
    with figure_style():
        figures = {NAME: scatter(findings)}
        if any(point.name for point in findings.points):
            figures[ERRORS] = errors(findings)
        for name, figure in figures.items():
            write_figure(folder / f"{name}.pdf", figure, metadata={"CreationDate": None})
            write_figure(folder / f"{name}.png", figure, dpi=200, metadata={"Software": None})
    return [f"{name}.png" for name in figures]


def errors(findings: Findings, columns: int = 1) -> Figure:
    """Signed error of each named prediction, with its interval: a line per name."""
    points = [point for point in findings.points if point.name]
    figure = Figure(figsize=(WIDTH_IN[columns], 0.8 + 0.17 * len(points)), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(points))[::-1]
    centre = np.array([100 * (point.predicted / point.measured - 1) for point in points])
    reach = np.array([_reach(point) for point in points]) / [[point.measured / 100] for point in points]
    panel.errorbar(centre, places, xerr=reach.T, linestyle="none", marker="o", color=BLUE, elinewidth=0.8, capsize=1.5)
    panel.axvline(0, color="#888888", linewidth=0.8, zorder=1)
    panel.set_yticks(places, [point.name for point in points])
    panel.set_xlabel("Predicted over measured, error (%)")
    add_footnote(figure, FOOTNOTE_ERRORS)
    return figure


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
        for axis in (panel.xaxis, panel.yaxis):
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_major_formatter(lambda value, _: f"{value:g}")  # text of others is drawn without mathematics
    panel.plot([low, high], [low, high], color="#888888", linewidth=0.8, zorder=1)
    panel.set_xlabel(f"Measured ({findings.unit})")
    panel.set_ylabel(f"Predicted ({findings.unit})")
    handles, names = panel.get_legend_handles_labels()
    if len(names) > 4:
        figure.legend(
            handles, names, loc="outside upper center", ncols=2, handlelength=1, fontsize=6, columnspacing=0.6
        )
        figure.set_figheight(3.1 + 0.13 * -(-len(names) // 2))
    else:
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
