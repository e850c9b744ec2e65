"""Finds the figures, and draws them from runs, a trace or a validation."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

import sim.figures.drawings
from sim.figures.drawing import DRAWINGS, RUNS, TRACE, VALIDATION, Drawing, MissingData
from sim.figures.run_table import study
from sim.figures.style import STYLE
from sim.figures.trace_file import is_trace
from sim.figures.validation_table import FILE as VALIDATION_FILE
from traces.errors import UserError

HOW_TO_NAME = {
    RUNS: "the output folder of python -m sim run",
    TRACE: "a trace file, as python -m sim record writes it, or demo",
    VALIDATION: f"a folder with {VALIDATION_FILE}, as python -m sim validate writes it",
}


def find_drawings() -> dict[str, Drawing]:
    """The figures that the modules of `sim.figures.drawings` declare, by name."""
    for module in pkgutil.iter_modules(sim.figures.drawings.__path__):
        importlib.import_module(f"sim.figures.drawings.{module.name}")
    return {drawing.name: drawing for drawing in sorted(DRAWINGS.values(), key=lambda each: (each.place, each.name))}


FIGURES = find_drawings()


def sources_of(path: Path) -> tuple[str, ...]:
    """What a path holds that figures can be drawn from: runs, a trace, a validation."""
    if is_trace(path):
        return (TRACE,)
    if path.is_file():
        return (VALIDATION,)
    files = {RUNS: "metrics.json", VALIDATION: VALIDATION_FILE}
    return tuple(source for source, name in files.items() if path.is_dir() and any(path.rglob(name)))


def figures_of(
    path: Path, names: Sequence[str], columns: int, runs: pd.DataFrame | None = None, **options: Any
) -> Iterator[tuple[str, Figure]]:
    """The figures of these names, or without names all that `path` gives, one after the other.

    `runs`: the table of `study`, where it is known. `options` reach the figures that name them, such as `steps`.

    Raises: MissingData where a named figure lacks what it shows, or `path` holds nothing to draw.
    """
    sources = sources_of(path)
    if not sources:
        raise MissingData(
            f"{path} holds no results: neither runs (python -m sim run) nor a trace (python -m sim record) "
            f"nor a {VALIDATION_FILE} (python -m sim validate)"
        )
    tables: dict[Callable[[Path], pd.DataFrame], pd.DataFrame] = {} if runs is None else {study: runs}
    for name in names or [name for name, drawing in FIGURES.items() if drawing.source in sources]:
        drawing = FIGURES[name]
        if drawing.source not in sources:
            raise MissingData(
                f"figure={name} is drawn from {drawing.source}, and {path} holds none: "
                f"name {HOW_TO_NAME[drawing.source]}"
            )
        read = drawing.read or study
        try:
            if read not in tables:
                tables[read] = read(path)
            with rc_context(STYLE):
                figure = drawing.draw(tables[read], columns, **{key: options.get(key) for key in drawing.options})
        except MissingData:
            if names:
                raise
            continue
        yield name, figure


def save(figure: Figure, stem: Path, dpi: int = 300) -> list[Path]:
    """Write a figure as `stem`.pdf and `stem`.png, the same bytes for the same figure: no time in either."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_suffix(".pdf"), stem.with_suffix(".png")
    with rc_context(STYLE):
        figure.savefig(pdf, metadata={"CreationDate": None})
        figure.savefig(png, dpi=dpi)
    return [pdf, png]


def check_name(name: str) -> None:
    """Raises: UserError for a figure that does not exist, naming those that do."""
    if name not in FIGURES:
        raise UserError(f"figure={name} is not known: choose from {', '.join(FIGURES)}")
