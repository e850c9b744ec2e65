"""Figures as data URIs: one for wide pages, one for narrow ones, the same bytes every time."""

from __future__ import annotations

import base64
import io
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sim.figures.drawing import RUNS, MissingData
from sim.figures.registry import FIGURES
from sim.figures.text_of_others import figure_style

SVG: dict[str, Any] = {"svg.hashsalt": "moe-offload-sim", "svg.fonttype": "path"}
HASHED = re.compile(r"\b[a-z][0-9a-f]{10}\b")


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: its name and heading, what it shows, and an SVG for two columns and for one."""

    name: str
    heading: str
    says: str
    wide: str
    narrow: str


def pictures(table: pd.DataFrame) -> dict[str, Picture]:
    """Every figure that the runs of a table give, by name."""
    drawn = {}
    for name, drawing in FIGURES.items():
        if drawing.source == RUNS and drawing.in_report:
            with suppress(MissingData):
                drawn[name] = picture(name, table)
    return drawn


def picture(name: str, table: pd.DataFrame) -> Picture:
    """One figure of its table."""
    drawing = FIGURES[name]
    with figure_style():
        wide, narrow = (data_uri(drawing.draw(table, columns)) for columns in (2, 1))
    return Picture(name, drawing.heading or name, drawing.says, wide, narrow)


def data_uri(figure: Figure) -> str:
    """A figure as an SVG inside a data URI: no names that could clash with another's, and nothing that runs."""
    buffer = io.BytesIO()
    with figure_style(**SVG):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(renumbered(buffer.getvalue().decode()).encode()).decode()


def renumbered(svg: str) -> str:
    """An SVG whose hashed names are numbers in order of appearance: matplotlib's hash where objects lie in memory."""
    names = {name: f"n{place}" for place, name in enumerate(dict.fromkeys(HASHED.findall(svg)))}
    return HASHED.sub(lambda match: names[match.group()], svg)
