"""Figures as data URIs: one for wide pages, one for narrow ones, the same bytes every time."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.asked import Asked
from sim.figures.drawing import RUNS, MissingData
from sim.figures.registry import FIGURES, drawn
from sim.figures.saving import svg_of
from sim.figures.style import said_of


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: its name and heading, what it shows, what one sees in it, under which conditions, and an SVG for two
    columns and for one."""

    name: str
    heading: str
    says: str
    conclusion: str
    note: str
    wide: str
    narrow: str


def pictures(table: pd.DataFrame) -> dict[str, Picture]:
    """Every figure that the runs of a table give, by name."""
    shown = {}
    for name, drawing in FIGURES.items():
        if drawing.source == RUNS and drawing.in_report:
            with suppress(MissingData):
                shown[name] = picture(name, table)
    return shown


def picture(name: str, table: pd.DataFrame) -> Picture:
    """One figure of its table."""
    drawing = FIGURES[name]
    wide, narrow = (drawn(drawing, table, columns, Asked(notes=False), {}) for columns in (2, 1))
    conclusion, note = said_of(wide)
    return Picture(name, drawing.heading or name, drawing.says, conclusion, note, data_uri(wide), data_uri(narrow))


def data_uri(figure: Figure) -> str:
    """A figure as an SVG inside a data URI: no names that could clash with another's, and nothing that runs."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_of(figure, "none").encode()).decode()
