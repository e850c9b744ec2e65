"""Reads the folder of a run: its files, and which runs of a folder finished."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sim.metrics.registry import GATE_MASSES
from sim.paths import files_named
from sim.plain_yaml import read_plain_yaml
from sim.results.json_files import read_json
from sim.results.parquet_files import read_numbers
from sim.results.plausible_file import read_plausible
from sim.statistics.run_sample import Run
from traces.errors import UserError

JOBS, FAILED = "jobs", "failed"
TEXTS = ("policy", "label", "model", "system")
"""Metrics that are no numbers."""
_BROKEN = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError,
    OmegaConfBaseException, YAMLError,
)  # fmt: skip


@contextmanager
def results_of(run: Path) -> Iterator[None]:
    """Whatever goes wrong while the files of a run are read is the files' fault, said in one sentence."""
    try:
        yield
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"the results in {run} are broken: {type(error).__name__}: {error}") from error


def finished_runs(folder: Path) -> list[Path]:
    """Folders of finished runs, `folder` itself or below it; runs that are being written do not count.

    What vanishes while it is looked at, as a run does that gets its name just then, is passed over.
    """
    runs = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if "metrics.json" in files:
            runs.append(Path(path))
    return sorted(runs)


def is_system(run: Path) -> bool:
    """Whether a run is one of a system of several devices (``system=NAME``), whose metrics are its own."""
    provenance = read_json(run / "provenance.json")
    return "system" in provenance and "policy" not in provenance


def unfinished_runs(folder: Path) -> list[Path]:
    """What runs left that failed or were cut short, so that a failed part of a sweep does not go unseen.

    Records of failures, folders of runs that were being written, and output folders without metrics.
    """
    begun, found = [], []
    for name, folders, files in os.walk(folder):
        here = Path(name)
        if ".hydra" in folders:
            begun.append(here)
        if here.name == FAILED:
            found += [here / file for file in files if file.endswith(".json")]
        found += [here / part for part in folders if part.startswith(".") and part.endswith(".part")]
    cut = [run for run in begun if run.parent.name != JOBS and not any(files_named(run, "metrics.json"))]
    return sorted([*cut, *found])


def load_run(run: Path, series: str = "") -> Run:
    """What statistics need of the run in folder `run`.

    Raises: UserError when a file of it is missing or broken.
    """
    with results_of(run):
        provenance = read_json(run / "provenance.json")
        return Run(
            series or str(provenance.get("policy")),
            _blocks(run),
            read_table(run / "requests.parquet", ("group",)),
            (str(provenance.get("trace_hash")), int(provenance.get("batch_size") or 1)),
            str(provenance.get("hardware")),
            uncertainty_of(provenance),
            read_plausible(run, provenance),
            elasticities_of(provenance),
        )


def machine_of(provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run says of its machine and of the software on it, those that it says something of."""
    config, machine = provenance.get("config"), provenance.get("machine")
    groups = [one.get(name) for one, name in ((config, "hardware"), (machine, "runtime")) if isinstance(one, dict)]
    return [group for group in groups if isinstance(group, dict)]


def uncertainty_of(provenance: Mapping[str, Any]) -> dict[str, float]:
    """Relative standard errors of the figures of hardware and runtime that a run states."""
    errors = [group.get("uncertainty") or {} for group in machine_of(provenance)]
    return {name: float(value) for one in errors for name, value in one.items() if value is not None}


def elasticities_of(provenance: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How much of each part of the time rests on each uncertain figure; empty where an older run does not say so.

    Raises: UserError where it is no table of numbers.
    """
    found = provenance.get("elasticities") or {}
    try:
        return {str(figure): {str(part): float(one) for part, one in parts.items()} for figure, parts in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError("provenance.json: elasticities must be numbers by figure and part") from error


def _blocks(run: Path) -> pd.DataFrame:
    """Sums of each block and phase: as the run left them, or added up from its steps."""
    if (run / "blocks.parquet").is_file():
        table = read_table(run / "blocks.parquet", ("group", "phase"))
        if not table["phase"].isin((0, 1)).all():
            raise UserError(f"{run / 'blocks.parquet'}: phase must be 0 (prefill) or 1 (decode)")
        return table
    steps = read_table(run / "steps.parquet", ("group", "hits", "demanded"))
    if "phase" not in steps:
        steps["phase"] = 1
    if "num_tokens" in steps:
        for name in [str(name) for name in steps if str(name).endswith("_ns")]:
            steps[f"token_{name}"] = steps[name] * steps.get("num_requests", steps["num_tokens"])
        for name in (name for name in GATE_MASSES if name in steps):
            steps[f"{name}_tokens"] = steps[name] * steps["num_tokens"]
    return steps.groupby(["group", "phase"], as_index=False).sum()


def overrides_of(run: Path, provenance: dict[str, Any]) -> dict[str, str]:
    """What the command line of a run set, and the grid of its job; what says where results go does not count."""
    overrides = provenance.get("overrides")
    path = run / ".hydra" / "overrides.yaml"
    if overrides is None:
        overrides = read_plain_yaml(path, "the overrides") if path.is_file() else []
    pairs = dict(str(override).lstrip("+~").split("=", 1) for override in overrides if "=" in str(override))
    return {key: value for key, value in pairs.items() if not key.startswith(("hydra", "sweep.", "experiment"))}


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    table = read_numbers(path)
    for name in columns:
        if name not in table:
            raise UserError(f"{path} lacks the column {name} of numbers: it was not written by `python -m sim run`")
    return table


def read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json: numbers, null where one is not known, and a few texts."""
    metrics = read_json(path)
    for name, value in metrics.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (value is None or number or (name in TEXTS and isinstance(value, str))):
            raise UserError(f"{path}: {name}={value!r} must be a finite number or null")
    return metrics
