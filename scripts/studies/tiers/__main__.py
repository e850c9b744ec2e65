"""Prints published speeds over tiers of memory beside simulated ones: python -m scripts.studies.tiers [--out FOLDER]

Writes tiers.md and tiers.csv to FOLDER (default docs/results). At most two points of a series calibrate as many figures
of its machine; the others are predicted, and their errors printed whatever they are. Routing is drawn from the nearest
shipped card (SYNTHETIC); sizes of models and what the files of the machines say are mostly ESTIMATED. Minutes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scripts.command_line import parser_of, run
from scripts.studies.tiers.choices import Choices, every_choice
from scripts.studies.tiers.left_out import counts
from scripts.studies.tiers.published import SERIES
from scripts.studies.tiers.simulate import fitted, replayed
from sim.paths import ROOT
from traces.errors import UserError
from traces.whole_file import write_whole

HEAD = (
    "series", "point", "measured", "simulated", "error_percent", "use", "hit_rate", "host_hit_rate", "stated_hits",
    "source",
)  # fmt: skip


def rows() -> Iterator[dict[str, Any]]:
    """One row per point."""
    found: dict[str, dict[str, float]] = {}
    for series in SERIES:
        values = found[series.name] = fitted(series, found.get(series.fitted_on, {}))
        for point in series.points:
            got = replayed(series, point, values)
            simulated = 1 / got["seconds"]
            yield {
                "series": series.name,
                "point": point.label,
                "measured": point.measured,
                "simulated": round(simulated, 3),
                "error_percent": round(100 * (simulated / point.measured - 1), 1),
                "use": "calibration" if point.calibrates else "predicted",
                "hit_rate": round(got["hit_rate"], 3),
                "host_hit_rate": None if got["host_hit_rate"] is None else round(got["host_hit_rate"], 3),
                "stated_hits": point.stated_hits,
                "source": series.source,
                "figures": ", ".join(f"{name} {value:.4g}" for name, value in values.items()),
            }


def page(found: list[dict[str, Any]], choices: Choices) -> str:
    """The table with what has to be known of it."""
    errors = np.array([abs(row["error_percent"]) for row in found if row["use"] == "predicted"])
    left = counts()
    series_left, rows_left = sum(line[1] for line in left), sum(line[2] for line in left)
    lines = [
        "# Tiers: published speeds beside simulated ones",
        "",
        "Made by `python -m scripts.studies.tiers`. Simulated values are SIMULATED; figures that the calibrating",
        "points decide are FITTED on them, the rest as the files of the machines say, mostly ESTIMATED. Routing is",
        "SYNTHETIC, drawn from a card; where the source states its hits they stand beside those that were drawn. Each",
        "point is run as its source says it was (cold or warm, prompt, tokens, which of them count), else 320 tokens",
        "from full caches of which the first half does not count. Nobody measured the published speeds again.",
        "",
        f"Predicted points: {len(errors)}, median error {np.median(errors):.1f} %, worst {errors.max():.1f} %.",
        "",
        'Which rows calibrate is a choice: here the ends of a series, or its first. "Any" is a point\'s median error',
        "over every choice of as many rows that leaves it to be predicted: "
        f"{np.median(list(choices.by_point.values())):.1f} % in the median of {len(choices.by_point)}",
        f"points. {choices.unmet} of {choices.tried} choices are met by no figures and not counted.",
        "",
        "| series | point | tokens/s | simulated | error % | use | any | hits | stated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        any_error = choices.by_point.get((row["series"], row["point"]))
        any_error = None if any_error is None else round(any_error, 1)
        hits = row["hit_rate"] if row["host_hit_rate"] in (None, 0.0) else f"{row['host_hit_rate']} in host memory"
        lines.append(
            f"| {row['series']} | {row['point']} | {row['measured']} | {row['simulated']} | {row['error_percent']:+} | "
            f"{row['use']} | {_cell(any_error)} | {hits} | {_cell(row['stated_hits'])} |"
        )
    lines += ["", "## Series", ""]
    for series in SERIES:
        figures = next(row["figures"] for row in found if row["series"] == series.name)
        origin = f"FITTED, beginning with those of {series.fitted_on}" if series.fitted_on else "FITTED"
        lines.append(
            f"- **{series.name}** ({series.source}): {series.model} {series.quantisation} on `{series.hardware}` with "
            f"`{series.runtime}`, routing of card `{series.card}`; {origin}: {figures}."
            + (f" Note: {series.said}." if series.said else "")
        )
    lines += [
        "",
        "## What is left out",
        "",
        f"{series_left} series ({rows_left} rows) of the corpus name storage, unified memory or two GPUs and are left",
        "out. The rule (`scripts/studies/tiers/left_out.py`) looks at words and never at a rate. It was written down",
        "after most of the series above had been simulated; none was taken out afterwards.",
        "",
        "| reason | series | rows |",
        "|---|---|---|",
        *(f"| {reason} | {names} | {count} |" for reason, names, count in left),
    ]
    return "\n".join([*lines, ""])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{round(value, 3)}"


def main(argv: list[str]) -> None:
    """Print the page, write both files."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of both files")
    folder = parser.parse_args(argv).out
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out={folder}: must be a folder, and a file stands there")
    found = list(rows())
    choices = every_choice()
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, HEAD, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_whole(folder / "tiers.csv", text.getvalue().encode())
    write_whole(folder / "tiers.md", page(found, choices).encode())
    print(page(found, choices))


if __name__ == "__main__":
    run(main)
