"""All runs of a folder in one Parquet table, and what statistics need of them in two more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from sim.results.json_files import read_json
from sim.results.parquet_files import read_numbers
from sim.results.run_files import finished_runs, is_system
from sim.results.table import RESULTS, table_of
from traces.whole_file import check_inside, whole_file

TABLES = ("requests", "blocks")
SYSTEMS = "results_systems.parquet"


def gather(folder: Path) -> int:
    """Write results.parquet, results_requests.parquet and results_blocks.parquet into `folder` -> the number of runs.

    results.parquet: one row per run, the columns of `table.collect` with `run`, the run's folder below `folder`.
    The other two hold the rows of every run's table of that name, with `run`. Runs of other systems (`system=od_moe`)
    go to results_systems.parquet. Nothing is written where no run finished.
    """
    for name in (RESULTS, SYSTEMS, *(f"results_{name}.parquet" for name in TABLES)):
        check_inside(folder / name, folder)
    everything = finished_runs(folder)
    systems = [run for run in everything if is_system(run)]
    runs = [run for run in everything if run not in set(systems)]
    if systems:
        _write(folder / SYSTEMS, pd.DataFrame([_flat(run, folder) for run in systems]))
    if not runs:
        return len(everything)
    table = table_of(folder, runs)
    table.insert(0, "run", [str(Path(run).relative_to(folder)) for run in table["folder"]])
    for name in TABLES:
        _write(folder / f"results_{name}.parquet", _stacked(folder, runs, name))
    listed = {name: table[name].map(list) for name in ("estimated", "warnings", "overrides")}
    _write(folder / RESULTS, table.drop(columns="folder").assign(**listed))
    return len(everything)


def _flat(run: Path, folder: Path) -> dict[str, Any]:
    """The numbers and words of a run of another system, whose metrics are its own."""
    provenance = read_json(run / "provenance.json")
    metrics = read_json(run / "metrics.json")
    row = {name: value for name, value in metrics.items() if value is None or isinstance(value, int | float | str)}
    return {"run": str(run.relative_to(folder)), "overrides": list(provenance.get("overrides") or ())} | row


def _stacked(folder: Path, runs: list[Path], name: str) -> pd.DataFrame:
    """The table `name` of all runs that have it, one below the other."""
    tables = []
    for run in runs:
        if (run / f"{name}.parquet").is_file():
            rows = read_numbers(run / f"{name}.parquet")
            rows.insert(0, "run", str(run.relative_to(folder)))
            tables.append(rows)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"run": pd.Series([], dtype=str)})


def _write(path: Path, table: pd.DataFrame) -> None:
    with whole_file(path) as file:
        table.to_parquet(file, index=False, compression="zstd")
