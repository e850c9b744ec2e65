"""Writes figures, each whole or not at all, the same bytes for the same figure."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sim.figures.text_of_others import figure_style
from traces.whole_file import write_whole

SVG: dict[str, Any] = {"svg.hashsalt": "moe-offload-sim"}
HASHED = re.compile(r"\b[a-z][0-9a-f]{10}\b")


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure in the format of the path's ending; ``options`` are those of matplotlib's ``savefig``."""
    if path.suffix == ".svg":
        write_whole(path, svg_of(figure).encode())
        return
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), **options)
    write_whole(path, content.getvalue())


def svg_of(figure: Figure, letters: str = "path") -> str:
    """A figure as SVG: names in it are numbers; nothing in it runs or names another file.

    `letters`: `path` draws them as shapes, the same everywhere; `none` leaves them to the fonts of who looks, a fifth
    of the size.
    """
    buffer = io.BytesIO()
    with figure_style(**SVG, **{"svg.fonttype": letters}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = renumbered(buffer.getvalue().decode())
    return svg if letters == "path" else shortened(svg)


def shortened(svg: str) -> str:
    """An SVG with coordinates to a hundredth of a point, without what no reader sees."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!DOCTYPE.*?>|<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"(\.\d\d)\d+", r"\1", svg))


def renumbered(svg: str) -> str:
    """An SVG whose hashed names are numbers in order of appearance: matplotlib's hash where objects lie in memory."""
    names = {name: f"n{place}" for place, name in enumerate(dict.fromkeys(HASHED.findall(svg)))}
    return HASHED.sub(lambda match: names[match.group()], svg)
