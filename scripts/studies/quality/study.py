"""What the quality studies share: their command line, tables on disk, numbers in print, panels of a figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from scripts.command_line import parser_of
from scripts.studies.quality.bench import HARDWARE, Bench
from sim.figures.chart_parts import legend_above
from sim.figures.registry import save
from sim.figures.style import LINES, STYLE, WIDTH_IN, add_footnote
from sim.paths import ROOT
from sim.quality.intervals import DRAWS
from sim.quality.study import DEMO_SIZES
from sim.results.json_files import write_json
from sim.results.outputs import versions
from traces.errors import UserError

Row = dict[str, Any]


def arguments(description: str | None, seeds: Sequence[int] = (0,)) -> argparse.ArgumentParser:
    """What every study takes."""
    parser = parser_of(description)
    parser.add_argument("--windows", type=int, default=24, help="windows of text (default 24)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a window (default 256)")
    parser.add_argument("--text-seed", type=int, default=0, help="chooses the windows (default 0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help="training seeds")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "quality_study", help="finished cases")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results", help="where tables are written")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs" / "figures", help="where figures are written")
    parser.add_argument("--redraw", action="store_true", help="only draw the figure, from the table that is written")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    return parser


def bench_of(given: argparse.Namespace, seed: int) -> Bench:
    """The bench of one training seed as the command line says."""
    torch.set_num_threads(given.threads)
    return Bench(seed, given.windows, given.tokens, given.text_seed, given.folder)


def write_results(name: str, given: argparse.Namespace, rows: Sequence[Row], **more: Any) -> None:
    """A table as JSON with where it comes from."""
    given.results.mkdir(parents=True, exist_ok=True)
    about = {
        "label": {"quality": "MEASURED", "times": f"SIMULATED on {HARDWARE} with the sizes of {DEMO_SIZES}"},
        "interval": f"95 %, paired bootstrap over documents, {DRAWS} draws",
        "settings": {name: getattr(given, name) for name in ("windows", "tokens", "text_seed", "seeds")},
        "versions": versions() | {"torch": torch.__version__},
    }
    write_json(given.results / f"{name}.json", about | more | {"rows": list(rows)})


def bounds(row: Row, name: str, scale: float = 100.0, digits: int = 2) -> str:
    """A difference with its interval: +1.20 [+0.80, +1.70]."""
    value, low, high = (f"{scale * row[f'{name}{end}']:+.{digits}f}" for end in ("", ".low", ".high"))
    return f"{value} [{low}, {high}]"


def plot_band(
    axis: Any, places: Sequence[float], rows: Sequence[Row], name: str, scale: float, opacity: float, **line: Any
) -> None:
    """A line through the values of some rows, with their intervals as a band."""
    value, low, high = ([scale * row[f"{name}{end}"] for row in rows] for end in ("", ".low", ".high"))
    axis.plot(places, value, **line)
    axis.fill_between(places, low, high, color=line["color"], alpha=opacity, linewidth=0)


@contextmanager
def panels(
    stem: Path, note: str, size: tuple[int, int], height: float, conclusion: str = "", **shared: Any
) -> Iterator[Any]:
    """Axes [rows, columns] over two columns of a page, with the legend of the first panel; written at the end.

    ``conclusion``: what the figure shows, over its note.
    """
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(*size, figsize=(WIDTH_IN[2], height), layout="constrained", squeeze=False, **shared)
        yield axes
        legend_above(figure, axes[0, 0].get_legend_handles_labels(), handlelength=3)
        add_footnote(figure, note, conclusion)
        save(figure, stem)
        plt.close(figure)


def read_rows(name: str, given: argparse.Namespace, part: str = "rows") -> list[Row]:
    """The rows of a table that `write_results` wrote, or another part of it. Raises: UserError where there is none."""
    path = given.results / f"{name}.json"
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))[part]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--redraw: {path} lacks the {part} of this study: run it without --redraw first") from error
    return rows


RULE_LOOKS: dict[str, dict[str, Any]] = dict(
    zip(
        ("score_band", "skip", "similarity", "cache_prior", "max_rank", "random_replacement", "importance_plus"),
        LINES,
        strict=False,
    )
)
"""Colour, dashes and marker of a substitution rule, the same in all figures."""
TIME_LABEL = "Time per output token (ms),\nfor 6 of 27 layers"
