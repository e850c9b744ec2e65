"""Finds the figures, and draws them from runs, a trace or a validation."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import sim.figures.drawings
from sim.config import suggest
from sim.figures.asked import Asked
from sim.figures.drawing import DRAWINGS, MAP, RUNS, SYSTEMS, TRACE, VALIDATION, Drawing, MissingData
from sim.figures.drawings.where_it_pays import FILE as MAP_FILE
from sim.figures.labels import fit_labels
from sim.figures.notes import mark_legends, marked
from sim.figures.run_table import study
from sim.figures.saving import write_figure
from sim.figures.style import notes_drawn
from sim.figures.text_of_others import figure_style
from sim.figures.trace_file import is_trace
from sim.figures.validation_table import FILE as VALIDATION_FILE
from sim.formatting import BY_REPEATING
from sim.paths import files_named
from sim.results.run_files import finished_runs, is_system
from sim.results.table import layers_of
from sim.systems.four_systems.run import FILE as SYSTEMS_FILE
from traces.errors import UserError
from traces.whole_file import check_inside

HOW_TO_NAME = {
    RUNS: "the output folder of python -m sim run",
    TRACE: "a trace file, as python -m sim record writes it, or demo",
    VALIDATION: f"a folder with {VALIDATION_FILE}, as python -m sim validate writes it",
    MAP: f"a folder with {MAP_FILE}, as python -m scripts.studies.smoe.where_it_pays writes it",
    SYSTEMS: f"a folder with {SYSTEMS_FILE}, as python -m sim run system=four_systems writes it",
}


def find_drawings() -> dict[str, Drawing]:
    """The figures that the modules of `sim.figures.drawings` declare, by name."""
    for module in pkgutil.iter_modules(sim.figures.drawings.__path__):
        importlib.import_module(f"sim.figures.drawings.{module.name}")
    return {drawing.name: drawing for drawing in sorted(DRAWINGS.values(), key=lambda each: (each.place, each.name))}


FIGURES = find_drawings()


def sources_of(path: Path) -> tuple[str, ...]:
    """What a path holds that figures can be drawn from: runs, a trace, a validation, a map."""
    if is_trace(path):
        return (TRACE,)
    if path.is_file():
        return ({MAP_FILE: MAP, SYSTEMS_FILE: SYSTEMS}.get(path.name, VALIDATION),)
    files = {RUNS: "metrics.json", VALIDATION: VALIDATION_FILE, MAP: MAP_FILE, SYSTEMS: SYSTEMS_FILE}
    found = tuple(source for source, name in files.items() if path.is_dir() and any(files_named(path, name)))
    if SYSTEMS in found and RUNS in found and all(map(is_system, finished_runs(path))):
        return tuple(source for source in found if source != RUNS)
    return found


def figures_of(
    path: Path,
    names: Sequence[str],
    columns: int,
    runs: pd.DataFrame | None = None,
    asked: Asked | None = None,
    **options: Any,
) -> Iterator[tuple[str, Figure]]:
    """The figures of these names, or without names all that `path` gives, one after the other.

    `runs`: the table of `study`, where it is known. `asked`: what the reader wants of figures (`sim.figures.asked`).
    `options` reach the figures that name them, such as `steps`.

    Raises: MissingData where a named figure lacks what it shows, or `path` holds nothing to draw.
    """
    asked = asked or Asked()
    sources = sources_of(path)
    if not sources:
        raise MissingData(
            f"{path} holds no results: neither runs (python -m sim run) nor a trace (python -m sim record) "
            f"nor a {VALIDATION_FILE} (python -m sim validate) nor a {MAP_FILE} (a study's map) "
            f"nor a {SYSTEMS_FILE} (system=four_systems)"
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
            table = asked.chosen(tables[read]) if read is study else tables[read]
            figure = drawn(drawing, table, columns, asked, options)
        except MissingData:
            if names:
                raise
            continue
        yield name, figure


def drawn(drawing: Drawing, table: pd.DataFrame, columns: int, asked: Asked, options: Mapping[str, Any]) -> Figure:
    """One figure of its table, as asked for; axes of times say how much of the model they are for."""
    with figure_style(**asked.style), notes_drawn(asked.notes):
        figure = drawing.draw(
            marked(table) if drawing.source == RUNS else table,
            columns,
            **{key: options.get(key) for key in drawing.options},
        )
    if drawing.source == RUNS:
        mark_legends(figure, table)
    asked.fit(figure)
    layers = "" if drawing.source == SYSTEMS else layers_of(table)
    if layers and ("all" not in layers or BY_REPEATING in layers):
        layers = layers.replace(BY_REPEATING, f"\n{BY_REPEATING.lstrip()}")
        gap = " " if len(figure.axes) == 1 else "\n"
        for panel in figure.axes:
            across, upward = panel.get_xlabel(), panel.get_ylabel().replace("\n", " ")
            if across.endswith("(ms)"):
                panel.set_xlabel(f"{across},{gap}{layers}")
            if upward.endswith("(ms)"):
                panel.set_ylabel(f"{upward},\n{layers}")
    fit_labels(figure)
    return figure


def save(
    figure: Figure, stem: Path, dpi: int = 300, inside: Path | None = None, style: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write a figure as `stem`.pdf, .png and .svg, the same bytes for the same figure: no time in any of them.

    ``inside``: a folder that no link may lead out of. Raises: UserError, OSError.
    """
    forms: dict[str, dict[str, Any]] = {".pdf": {"metadata": {"CreationDate": None}}, ".png": {"dpi": dpi}, ".svg": {}}
    paths = {stem.with_suffix(ending): options for ending, options in forms.items()}
    with figure_style(**(style or {})):
        for path, options in paths.items():
            if inside is not None:
                check_inside(path, inside)
            write_figure(path, figure, **options)
    return list(paths)


def check_name(name: str) -> None:
    """Raises: UserError for a figure that does not exist, naming those that do."""
    if name not in FIGURES:
        raise UserError(f"figure={name} is not known: {suggest(name, FIGURES)}")
