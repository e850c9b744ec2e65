"""Writes figures, each whole or not at all, the same bytes for the same figure."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sim.figures.text_of_others import figure_style
from traces.whole_file import write_whole

SVG: dict[str, Any] = {"svg.hashsalt": "moe-offload-sim", "svg.fonttype": "path"}
HASHED = re.compile(r"\b[a-z][0-9a-f]{10}\b")


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure in the format of the path's ending; ``options`` are those of matplotlib's ``savefig``."""
    if path.suffix == ".svg":
        write_whole(path, svg_of(figure).encode())
        return
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), **options)
    write_whole(path, content.getvalue())


def svg_of(figure: Figure) -> str:
    """A figure as SVG: letters are shapes, names in it are numbers; nothing in it runs or names another file."""
    buffer = io.BytesIO()
    with figure_style(**SVG):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return renumbered(buffer.getvalue().decode())


def renumbered(svg: str) -> str:
    """An SVG whose hashed names are numbers in order of appearance: matplotlib's hash where objects lie in memory."""
    names = {name: f"n{place}" for place, name in enumerate(dict.fromkeys(HASHED.findall(svg)))}
    return HASHED.sub(lambda match: names[match.group()], svg)
