"""The files of a validation: validation.json, a CSV per table, report.md, a figure of every point; and its text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.results.json_files import write_json
from sim.results.outputs import versions
from sim.validation.drawing import draw
from sim.validation.findings import PREDICTED, Cell, Findings, Point, Row
from traces.text import spreadsheet_cell, visible
from traces.whole_file import write_whole

MAX_ROWS = 100
"""Rows from which on a table is only in its CSV file."""


def cell_text(value: Cell, name: str = "") -> str:
    """A cell as people read it: four digits, percents signed with two decimals, a dash for what is not known."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name.endswith("absolute_error_percent"):
            return f"{value:.2f}"
        return f"{value:+.2f}" if name.endswith("_percent") else f"{value:.4g}"
    return str(value)


def columns_of(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """All columns of the rows, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def table_text(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A table with aligned columns."""
    names = columns_of(rows)
    lines = [names] + [[cell_text(row.get(name), name) for name in names] for row in rows]
    numeric = [any(isinstance(row.get(name), int | float) for row in rows) for name in names]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def table_markdown(rows: Sequence[Mapping[str, Cell]]) -> str:
    """A Markdown table."""
    names = columns_of(rows)
    lines = [names, ["---"] * len(names), *([cell_text(row.get(name), name) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def table_csv(rows: Sequence[Mapping[str, Cell]]) -> str:
    """The table with every digit; empty cells are what is not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: spreadsheet_cell(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue()


def summary_lines(summary: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """The summary as flat lines."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            yield from summary_lines(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name} = {cell_text(value, name)}"


def text(findings: Findings) -> str:
    """What is printed: the note that matters most, tables, summary, the other notes."""
    parts = [f"{findings.title}\n{findings.notes[0]}"]
    parts += [f"{name}\n{_shown(name, rows, table_text)}" for name, rows in findings.tables.items() if rows]
    parts.append("\n".join(summary_lines(findings.summary)))
    parts.append("\n".join(f"note: {note}" for note in findings.notes[1:]))
    return "\n\n".join(parts)


def markdown(findings: Findings, figures: Sequence[str] = ()) -> str:
    """The report: the note that matters most, summary, figures, tables, the other notes."""
    parts = [f"# {findings.title}", findings.notes[0] + "."]
    parts.append("## Summary\n\n" + "\n".join(f"- {line}" for line in summary_lines(findings.summary)))
    parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in figures]
    parts += [f"## {name}\n\n{_shown(name, rows, table_markdown)}" for name, rows in findings.tables.items() if rows]
    parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in findings.notes[1:]))
    return "\n\n".join(parts) + "\n"


def _shown(name: str, rows: Sequence[Row], draw: Callable[[Sequence[Row]], str]) -> str:
    return draw(rows) if len(rows) < MAX_ROWS else f"{len(rows)} rows: see {name}.csv"


SECONDS: Mapping[str, Callable[[float], float]] = {
    "ms": lambda value: value / 1e3,
    "ms per token": lambda value: value / 1e3,
    "tokens/s": lambda value: 1.0 / value,
}
"""From a point's unit to seconds."""


def points_table(findings: Findings) -> list[Row]:
    """The predicted points as ``sim.figures.validation_table`` reads them, in seconds; without what was fitted on."""
    to_seconds = SECONDS[findings.unit]

    def row(point: Point) -> Row:
        ends = [None if end is None else to_seconds(end) for end in (point.low, point.high)]
        if to_seconds(1.0) > to_seconds(2.0):  # of rates the lower one is the longer time
            ends.reverse()
        return {
            "setting": point.name or point.series,
            "policy": point.series,
            "measured_s": to_seconds(point.measured),
            "measured_low": None,
            "measured_high": None,
            "predicted_s": to_seconds(point.predicted),
            "predicted_low": ends[0],
            "predicted_high": ends[1],
        }

    return [row(point) for point in findings.points if point.use == PREDICTED]


def write_findings(folder: Path, findings: Findings, config: Mapping[str, Any]) -> None:
    """Write everything; validation.json comes last, so that its presence means that the rest is complete."""
    for name, rows in findings.tables.items():
        if rows:
            write_whole(folder / f"{name}.csv", table_csv(rows).encode())
    if points := points_table(findings):
        write_whole(folder / "validation.csv", table_csv(points).encode())
    figures = draw(folder, findings)
    write_whole(folder / "report.md", visible(markdown(findings, figures)).encode())
    content = {
        "name": findings.name,
        "title": findings.title,
        "summary": findings.summary,
        "notes": findings.notes,
        "tables": findings.tables,
        "versions": versions(),
        "config": dict(config),
    }
    write_json(folder / "validation.json", content)
