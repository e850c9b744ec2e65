"""The runs of a folder as a table: one row per run, with intervals over its requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.formatting import DEPTHS, of_layers
from sim.machine.runtime import OWN_RUNTIME
from sim.metrics.registry import QUANTITIES, SPECULATIONS, TIERED
from sim.results.json_files import read_json
from sim.results.parquet_files import read_numbers
from sim.results.run_files import finished_runs, load_run, overrides_of, read_metrics, results_of
from sim.results.series import by_number, own_parts, series_names
from sim.statistics.run_sample import Run, intervals
from traces.errors import UserError
from traces.text import MOST_OF_A_SERIES, printable, short_name

RESULTS = "results.parquet"
AND, PLAUSIBLE = " and ", "plausible machines"
FIRST_ORDER = f"{AND}the machine's errors by first order"
METHOD = "bootstrap-t, order statistics"
"""How intervals were made; those of a results.parquet that were made in another way are made anew."""

# Settings that tell two runs of one policy apart; the cache's capacity is the axis of every figure instead.
_SETTINGS = ("hardware", "runtime", "model", "trace", "batch_size", "seed")
_IDENTITY = ("comparison", "policy", "trace_hash", "label", "engine", "key", "code_version", "replay_wall_s")
_SENTENCES = ("estimated", "warnings", "overrides")
DESCRIBED = ("hardware", "runtime", "model")
"""Groups of figures that a name stands for."""
_CAPACITY = ("cache.fraction", "cache.slots_per_layer", "cache.bytes")


def collect(folder: Path, with_intervals: bool = True, of_machines: bool = True) -> pd.DataFrame:
    """One row per run found in `folder` or below it: its metrics, what it ran, and 95 % intervals.

    Besides the metrics under their own names the columns are `folder`, `policy`, `hardware`, `runtime`, `comparison`
    ("same runtime", or each on its own: runs on different runtimes are compared in the latter only), `model`,
    `trace`, `trace_hash`, `layers` (replayed), `model_layers` (of the model whose sizes they have) and
    `recorded_layers` (NaN but where the replayed ones repeat them), `batch_size`,
    `seed`, `label`, `engine`, `key`, `code_version`, `replay_wall_s`, `estimated`, `warnings` and `overrides` (tuples
    of texts), `capacity` (share of all experts that the cache holds), `asked_capacity` (as configured), `requests`
    (blocks of the intervals: requests, lockstep batches, or data sets and conversations), `METRIC.low` and
    `METRIC.high` of every mean, rate and quantile (`tpot_s.low` for `tpot_s.mean`; NaN where there is none),
    `series`: the policy, the settings in which the runs of the folder differ, and rules that are not shipped,
    `conditions`: all that two runs must share so that only their policies differ, and at most the requests that they
    replayed (`sim.results.comparisons` takes the common ones). Of runs of a sweep with the same configuration the
    newest counts. Sorted by capacity and series. Without `with_intervals` those columns are left out, which is quick;
    without `of_machines` intervals are over the blocks alone, and hold nothing of the machine's uncertainty.

    Raises: UserError when the folder holds no results, or when a file of a run is missing or broken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the output folder of a run or a sweep")
    runs = finished_runs(folder)
    if not runs:
        raise UserError(f"{folder} holds no results: `python -m sim run` writes metrics.json into its output folder")
    return _newest(table_of(folder, runs, with_intervals, of_machines))


def _newest(table: pd.DataFrame) -> pd.DataFrame:
    """Without the runs of a sweep that a later one of the same configuration, with edited code, replaced."""
    written = [(Path(folder) / "metrics.json").stat().st_mtime_ns for folder in table["folder"]]
    keyed = table.assign(written=written)[table["key"].notna()]
    last = keyed.sort_values("written", kind="stable").drop_duplicates(["conditions", "series"], keep="last")
    chosen = table[table["key"].isna() | table.index.isin(last.index)]
    return chosen.reset_index(drop=True)


def table_of(folder: Path, runs: list[Path], with_intervals: bool = True, of_machines: bool = True) -> pd.DataFrame:
    """`collect` of some runs below `folder`; what its results.parquet knows of a run is not computed again."""
    known = _gathered(folder)
    provenances = [read_json(run / "provenance.json") for run in runs]
    rows, overrides = [], []
    for run, one in zip(runs, provenances, strict=True):
        with results_of(run):
            rows.append(_row(run, one, known.get(str(one.get("key"))), with_intervals, of_machines))
            overrides.append(overrides_of(run, one))
    for words, figures in zip(overrides, _varied_figures(provenances), strict=True):
        words |= figures
    own = [own_parts(words, group_of(one, "policy")) for words, one in zip(overrides, provenances, strict=True)]
    for row, name in zip(rows, _series_names(rows, overrides, own), strict=True):
        row["series"] = short_name(name, MOST_OF_A_SERIES)
    _set_conditions(rows, overrides)
    return pd.DataFrame(rows).sort_values(["capacity", "series"], kind="stable", key=by_number, ignore_index=True)


def _varied_figures(provenances: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Of every run the figures, as `hardware.sync_s`, in which runs on machines (or models) of its name differ.

    A file of that name may have been edited between the runs: they are no longer on the same machine.
    """
    found: list[dict[str, str]] = [{} for _ in provenances]
    for group in DESCRIBED:
        described = [group_of(one, group) for one in provenances]
        for name in {str(one.get("name")) for one in described}:
            same = [place for place, one in enumerate(described) if str(one.get("name")) == name]
            for key in dict.fromkeys(key for place in same for key in described[place]):
                values = {place: described[place].get(key) for place in same}
                if any(isinstance(value, str | list | dict) for value in values.values()):
                    continue
                if len(set(values.values())) > 1:
                    for place, value in values.items():
                        found[place][f"{group}.{key}"] = str(value)
    return found


def group_of(provenance: dict[str, Any], group: str) -> dict[str, Any]:
    """A group of a run's configuration, empty where it has none."""
    config = provenance.get("config")
    found = config.get(group) if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}


def _gathered(folder: Path) -> dict[Any, dict[str, Any]]:
    """Key of a run -> its intervals, as an earlier `gather` wrote them."""
    path = folder / RESULTS
    if not path.is_file():
        return {}
    try:
        table = read_numbers(path, keys=("key",))
    except UserError:  # broken: computed again
        return {}
    if "interval_method" not in table:
        return {}
    own = ("requests", "interval_method")
    names = [name for name in map(str, table) if name in own or name.endswith((".low", ".high"))]
    return {str(row["key"]): {name: row[name] for name in names} for row in table.to_dict("records") if row.get("key")}


def _row(
    run: Path, provenance: dict[str, Any], known: dict[str, Any] | None, with_intervals: bool, of_machines: bool
) -> dict[str, Any]:
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
    row |= {name: np.nan if provenance.get(name) is None else provenance[name] for name in DEPTHS}
    row["trace"] = Path(str(row["trace"])).name
    row |= {key: short_name(row[key]) for key in ("policy", "hardware", "model", "trace") if row[key] is not None}
    asked = [provenance["cache"].get(key.partition(".")[2]) for key in _CAPACITY]
    row["asked_capacity"] = str(next((value for value in asked if value is not None), "default"))
    row |= {"folder": str(run), "capacity": float(capacity)}
    row |= {name: tuple(printable(str(one)) for one in provenance.get(name) or ()) for name in _SENTENCES}
    sample = load_run(run)
    if not with_intervals:
        return row | {"requests": sample.num_blocks}
    sample = sample if of_machines else sample.of_the_stated_machine()
    method = METHOD + machine_words(sample)
    if known is None or known["interval_method"] != method:
        names = (*QUANTITIES, *(name for name in (*SPECULATIONS, *TIERED) if name in metrics))
        known = {"requests": sample.num_blocks, "interval_method": method} | interval_columns(sample, names)
    return row | known


def machine_words(run: Run) -> str:
    """How intervals count in the uncertainty of the machine: nothing where its files state none."""
    if not any(run.errors.values()):
        return ""
    return FIRST_ORDER if run.plausible is None else f"{AND}{run.plausible.machines} {PLAUSIBLE}"


def interval_columns(run: Run, metrics: Sequence[str]) -> dict[str, float]:
    """95 % intervals of these metrics by the names of their columns."""
    found = intervals(run, metrics).items()
    return {column: end for name, one in found for column, end in zip(bounds_of(name), one.interval, strict=True)}


def layers_of(table: pd.DataFrame) -> str:
    """What the times of these runs are for, as `of_layers` says it; several where they differ."""
    known = table.reindex(columns=list(DEPTHS)).itertuples(index=False, name=None) if "layers" in table else ()
    return ", ".join(dict.fromkeys(filter(None, (of_layers(*depths) for depths in known))))


def rate_heading(table: pd.DataFrame) -> str:
    """The heading of tokens per second, which says how many of the model's layers were replayed where not all were."""
    if not {"layers", "model_layers"} <= set(table):
        return "tokens/s"
    pairs = table[["layers", "model_layers"]].dropna().drop_duplicates().itertuples(index=False, name=None)
    partial = [(layers, whole) for layers, whole in pairs if layers != whole]
    if not partial:
        return "tokens/s"
    return f"tokens/s, {partial[0][0]:.0f}/{partial[0][1]:.0f} layers" if len(partial) == 1 else "tokens/s, some layers"


def tokens_per_s(table: pd.DataFrame) -> pd.Series[float]:
    """Tokens that all requests of a batch get per second of decoding: batch size over the time of a decode step."""
    single = table["batch_size"].astype(float) == 1.0
    time_s = table["tpot_s.mean"].where(single, table.get("itl_s.mean", pd.Series(np.nan, table.index))).astype(float)
    return table["batch_size"].astype(float) / time_s.where(time_s > 0)


def bounds_of(metric: str) -> tuple[str, str]:
    """Names of the columns of a metric's interval."""
    stem = metric.removesuffix(".mean")
    return f"{stem}.low", f"{stem}.high"


SELECTION = ("trace.requests", "trace.sample", "trace.fit_requests")
"""What chooses the requests of a run."""


def _conditions(row: dict[str, Any], overrides: dict[str, str], named: Sequence[str] = SELECTION) -> str:
    """What two runs must share so that only their policies differ; of the settings that choose requests those `named`,
    and with all of them the requests that were chosen."""
    asked = {key: row[key] for key in ("trace_hash", "batch_size", "hardware", "model", "asked_capacity")}
    asked["runtime"] = row["runtime"] if row["comparison"] != OWN_RUNTIME else OWN_RUNTIME
    if "trace.sample" in overrides:
        asked["seed"] = row["seed"]
    shown = {*_SETTINGS, *_CAPACITY, *(name for name in SELECTION if name not in named)}
    rest = {key: value for key, value in overrides.items() if key not in shown and not key.startswith("policy")}
    return " ".join(f"{key}={value}" for key, value in sorted((asked | rest).items()))


def _set_conditions(rows: list[dict[str, Any]], overrides: list[dict[str, str]]) -> None:
    """Enter the conditions of each run.

    Runs that replayed other requests of the same trace have conditions of their own. Where they are of other policies
    than the rest they join them, to be compared on common requests: first those whose policy itself chose the requests
    (it holds some out), then those that were asked for others.
    """
    for row, words in zip(rows, overrides, strict=True):
        row["conditions"] = _conditions(row, words)
    for named in (SELECTION, ()):
        wide: dict[str, list[int]] = {}
        for place, (row, words) in enumerate(zip(rows, overrides, strict=True)):
            whole = row | {"trace_hash": CHOSEN.sub("", str(row["trace_hash"]))}
            wide.setdefault(_conditions(whole, words, named), []).append(place)
        for conditions, places in wide.items():
            seen: dict[tuple[str, ...], set[str]] = {}
            for place in places:
                policy = [f"{key}={value}" for key, value in overrides[place].items() if key.startswith("policy.")]
                name = (str(rows[place]["policy"]), str(rows[place]["seed"]), *sorted(policy))
                seen.setdefault(name, set()).add(str(rows[place]["conditions"]))
            if all(len(narrow) == 1 for narrow in seen.values()):
                for place in places:
                    rows[place]["conditions"] = conditions


CHOSEN = re.compile(r"/(requests|sample)\[[^\]]*\]$")
"""The end of a trace's hash that says which requests were chosen."""


def _series_names(
    rows: list[dict[str, Any]], overrides: list[dict[str, str]], own: Sequence[Sequence[str]]
) -> list[str]:
    """The names of runs, of all their settings but those that a figure has an axis for."""
    shown = {*_SETTINGS, *_CAPACITY, "policy"}
    extras = [{key: value for key, value in words.items() if key not in shown} for words in overrides]
    settings = [{key: row[key] for key in _SETTINGS} | extra for row, extra in zip(rows, extras, strict=True)]
    return series_names([str(row["policy"]) for row in rows], settings, own)
