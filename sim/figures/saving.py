"""Writes figures, each whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from traces.whole_file import write_whole


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure in the format of the path's ending; ``options`` are those of matplotlib's ``savefig``."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), **options)
    write_whole(path, content.getvalue())
