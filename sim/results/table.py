"""The runs of a folder as a table: one row per run, with intervals over its requests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.metrics.registry import QUANTITIES
from sim.results.json_files import read_json
from sim.results.run_files import finished_runs, load_run, overrides_of, read_metrics, results_of
from sim.statistics.pairs import compare, corrected_together
from sim.statistics.run_sample import Run, intervals
from traces.errors import UserError

RESULTS = "results.parquet"
MEANS = tuple(name for name, quantity in QUANTITIES.items() if quantity.quantile is None)

# Settings that tell two runs of one policy apart; the cache's capacity is the axis of every figure instead.
_SETTINGS = ("hardware", "model", "trace", "batch_size", "seed")
_IDENTITY = ("policy", "trace_hash", "label", "engine", "key", "code_version", "replay_wall_s")
_CAPACITY = ("cache.fraction", "cache.slots_per_layer", "cache.bytes")


def collect(folder: Path) -> pd.DataFrame:
    """One row per run found in `folder` or below it: its metrics, what it ran, and 95 % intervals.

    Besides the metrics under their own names the columns are `folder`, `policy`, `hardware`, `model`, `trace`,
    `trace_hash`, `batch_size`, `seed`, `label`, `engine`, `key`, `code_version`, `replay_wall_s`, `estimated`,
    `warnings` and `overrides` (tuples of texts), `capacity` (share of all experts that the cache holds),
    `asked_capacity` (as configured), `requests` (blocks of the intervals: requests, or lockstep batches), `METRIC.low`
    and `METRIC.high` of every mean and rate (`tpot_s.low` for `tpot_s.mean`), `series`: the policy, and the settings in
    which the runs of the folder differ, and `conditions`: all that two runs must share so that only their policies
    differ. Of runs of a sweep with the same configuration the newest counts. Sorted by capacity and series.

    Raises: UserError when the folder holds no results, or when a file of a run is missing or broken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the output folder of a run or a sweep")
    runs = finished_runs(folder)
    if not runs:
        raise UserError(f"{folder} holds no results: `python -m sim run` writes metrics.json into its output folder")
    return _newest(table_of(folder, runs))


def _newest(table: pd.DataFrame) -> pd.DataFrame:
    """Without the runs of a sweep that a later one of the same configuration, with edited code, replaced."""
    written = [(Path(folder) / "metrics.json").stat().st_mtime_ns for folder in table["folder"]]
    keyed = table.assign(written=written)[table["key"].notna()]
    last = keyed.sort_values("written", kind="stable").drop_duplicates(["conditions", "series"], keep="last")
    chosen = table[table["key"].isna() | table.index.isin(last.index)]
    return chosen.reset_index(drop=True)


def table_of(folder: Path, runs: list[Path]) -> pd.DataFrame:
    """`collect` of some runs below `folder`; what its results.parquet knows of a run is not computed again."""
    known = _gathered(folder)
    provenances = [read_json(run / "provenance.json") for run in runs]
    rows, overrides = [], []
    for run, one in zip(runs, provenances, strict=True):
        with results_of(run):
            rows.append(_row(run, one, known.get(str(one.get("key")))))
            overrides.append(overrides_of(run, one))
    for row, name, words in zip(rows, _series_names(rows, overrides), overrides, strict=True):
        row["series"] = name
        row["conditions"] = _conditions(row, words)
    return pd.DataFrame(rows).sort_values(["capacity", "series"], kind="stable", ignore_index=True)


def _gathered(folder: Path) -> dict[Any, dict[str, Any]]:
    """Key of a run -> its intervals, as an earlier `gather` wrote them."""
    path = folder / RESULTS
    if not path.is_file():
        return {}
    try:
        table = pd.read_parquet(path)
    except Exception:  # broken: computed again
        return {}
    names = [name for name in map(str, table) if name == "requests" or name.endswith((".low", ".high"))]
    return {str(row["key"]): {name: row[name] for name in names} for row in table.to_dict("records") if row.get("key")}


def comparisons(table: pd.DataFrame, metric: str, baseline: str | None = None) -> pd.DataFrame:
    """`pairs.compare` of all runs of `collect` that differ in their policy only, corrected for all pairs.

    Runs are compared where trace, requests, batch size, machine, model and the capacity asked for are the same; these
    are the columns of the result before those of `compare`. Of equal runs the first counts. `baseline`: a policy or a
    series; without it all pairs. Empty where nothing is left to compare.

    Raises: UserError for an unknown metric or baseline.
    """
    if baseline is not None and baseline not in {*table["series"], *table["policy"]}:
        raise UserError(f"baseline={baseline} is neither a policy nor a series: known are {', '.join(table['series'])}")
    tables = []
    asked = pd.to_numeric(table["asked_capacity"], errors="coerce")
    ordered = table.assign(order=asked).sort_values(["order", "series"], kind="stable").drop(columns="order")
    for _, rows in ordered.drop_duplicates(["conditions", "series"]).groupby("conditions", sort=False):
        runs = [load_run(Path(row["folder"]), str(row["series"])) for _, row in rows.iterrows()]
        chosen = rows[(rows["series"] == baseline) | (rows["policy"] == baseline)]["series"]
        if len(runs) < 2 or (baseline is not None and chosen.empty):
            continue
        pairs = compare(runs, metric, None if baseline is None else str(chosen.iloc[0]))
        for name in ("capacity", "asked_capacity", "hardware", "model", "trace", "batch_size", "conditions"):
            pairs.insert(0, name, rows.iloc[0][name])
        tables.append(pairs)
    return corrected_together(pd.concat(tables, ignore_index=True) if tables else compare([], metric))


def _row(run: Path, provenance: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    metrics = read_metrics(run / "metrics.json")
    for key in ("hit_rate", "tpot_s.mean"):
        if key not in metrics:
            raise UserError(f"{run / 'metrics.json'} lacks {key}: it was not written by `python -m sim run`")
    for key in ("policy", "cache", "label"):
        if key not in provenance:
            raise UserError(f"{run / 'provenance.json'} lacks {key}: it was not written by `python -m sim run`")
    capacity = provenance["cache"].get("effective_fraction")
    if capacity is None:
        raise UserError(f"{run / 'provenance.json'} lacks cache.effective_fraction, the axis of every figure")
    row: dict[str, Any] = {key: np.nan if value is None else value for key, value in metrics.items()}
    row |= {key: provenance.get(key) for key in (*_SETTINGS, *_IDENTITY)}
    row["trace"] = Path(str(row["trace"])).name
    asked = [provenance["cache"].get(key.partition(".")[2]) for key in _CAPACITY]
    row["asked_capacity"] = str(next((value for value in asked if value is not None), "default"))
    row |= {"folder": str(run), "capacity": float(capacity)}
    row |= {name: tuple(map(str, provenance.get(name) or ())) for name in ("estimated", "warnings", "overrides")}
    if known is None:
        sample = load_run(run)
        known = {"requests": len(sample.groups())} | interval_columns(sample, MEANS)
    return row | known


def interval_columns(run: Run, metrics: Sequence[str]) -> dict[str, float]:
    """95 % intervals of these metrics by the names of their columns."""
    bounds = intervals(run, metrics).items()
    return {column: end for name, ends in bounds for column, end in zip(bounds_of(name), ends, strict=True)}


def bounds_of(metric: str) -> tuple[str, str]:
    """Names of the columns of a metric's interval."""
    stem = metric.removesuffix(".mean")
    return f"{stem}.low", f"{stem}.high"


def _conditions(row: dict[str, Any], overrides: dict[str, str]) -> str:
    """What two runs must share so that only their policies differ."""
    asked = {key: row[key] for key in ("trace_hash", "batch_size", "hardware", "model", "asked_capacity")}
    shown = {*_SETTINGS, *_CAPACITY}
    rest = {key: value for key, value in overrides.items() if key not in shown and not key.startswith("policy")}
    return " ".join(f"{key}={value}" for key, value in sorted((asked | rest).items()))


def _series_names(rows: list[dict[str, Any]], overrides: list[dict[str, str]]) -> list[str]:
    """The policy of each run, with every setting that is not the same in all of them."""
    shown = {*_SETTINGS, *_CAPACITY, "policy"}
    extras = [{key: value for key, value in words.items() if key not in shown} for words in overrides]
    settings = [{key: row[key] for key in _SETTINGS} | extra for row, extra in zip(rows, extras, strict=True)]
    keys = dict.fromkeys(key for one in settings for key in one)
    varied = [key for key in keys if len({str(one.get(key)) for one in settings}) > 1]
    names = []
    for row, one in zip(rows, settings, strict=True):
        words = [f"{key.split('/')[-1]}={one[key]}" for key in varied if one.get(key) is not None]
        names.append(" ".join([str(row["policy"]), *words]))
    return names
