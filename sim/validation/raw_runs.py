"""Real runs on disk: one file each as it finishes, all of them together in two files at the end."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.config import validate
from sim.engine.decision.counters import COUNTERS
from sim.execution.run import RealRun
from sim.machine.parts import PARTS
from sim.results.json_files import write_json
from sim.results.parquet_files import read_numbers
from traces.errors import UserError
from traces.whole_file import write_whole
from traces.whole_input import read_json_value

COLUMNS = ("step", "latency_ns", *(f"{part}_ns" for part in PARTS), *COUNTERS, "run_queue_ns", "copy_run_queue_ns")
RAW, TOKENS, RUNS = "raw", "tokens.parquet", "runs.json"


@dataclass(frozen=True, slots=True)
class RawRun:
    """One real run of a setting: ``columns`` [S] of the measured steps by name, and means over them.

    ``disturbance``: share of all cores that was not there for us (None: not known). ``layer_ns`` [L]: mean per layer.
    ``copies``, ``copy_ns``: number and mean duration of copies. ``label``: MEASURED, or EMULATED for a paced link.
    """

    setting: str
    index: int
    disturbance: float | None
    waited_share: float | None
    """Time that the main thread waited for a core, over the time measured."""
    layer_ns: tuple[float, ...]
    copies: int
    copy_ns: float
    label: str
    ended_at: str
    columns: dict[str, NDArray[Any]]

    def mean(self, column: str) -> float:
        return float(self.columns[column].mean())


def raw_run(setting: str, index: int, run: RealRun) -> RawRun:
    """What is kept of a real run."""
    columns = {name: np.asarray(run.columns[name]) for name in COLUMNS}
    begin_end = run.copies[:, 2:4]
    waited = columns["run_queue_ns"].astype(np.float64)
    return RawRun(
        setting=setting,
        index=index,
        disturbance=run.load.disturbance,
        waited_share=None if np.isnan(waited).any() else float(waited.sum() / columns["latency_ns"].sum()),
        layer_ns=tuple(run.layer_ns.mean(axis=0).tolist()),
        copies=len(begin_end),
        copy_ns=float((begin_end[:, 1] - begin_end[:, 0]).mean()) if len(begin_end) else 0.0,
        label=run.label,
        ended_at=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        columns=columns,
    )


def _meta(run: RawRun) -> dict[str, Any]:
    values = asdict(run)
    values.pop("columns")
    return values | {"layer_ns": list(run.layer_ns)}


def _from_meta(meta: dict[str, Any], columns: dict[str, NDArray[Any]]) -> RawRun:
    try:
        values = meta | {"layer_ns": tuple(map(float, meta["layer_ns"])), "columns": columns}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a run of a validation is broken: its layer_ns is no list of numbers: {error}") from error
    return validate(RawRun, values, "a run of a validation: ")


def store(folder: Path, run: RawRun) -> None:
    """Write one run atomically, the table last."""
    stem = f"{run.setting}__{run.index:03d}"
    write_json(folder / RAW / f"{stem}.json", _meta(run))
    write_whole(folder / RAW / f"{stem}.parquet", _parquet(pd.DataFrame(run.columns)))


def stored(folder: Path) -> list[RawRun]:
    """The runs that have finished so far, in order of their names."""
    runs = []
    for path in sorted((folder / RAW).glob("*.parquet")):
        meta = read_json_value(path.with_suffix(".json"), "the file")
        runs.append(_from_meta(meta, _columns(read_numbers(path))))
    return runs


def gather(folder: Path, runs: Sequence[RawRun]) -> None:
    """Write all runs into two files and delete the single ones."""
    tables = [pd.DataFrame(run.columns).assign(run=number) for number, run in enumerate(runs)]
    write_whole(folder / TOKENS, _parquet(pd.concat(tables, ignore_index=True)))
    write_json(folder / RUNS, [_meta(run) for run in runs])
    shutil.rmtree(folder / RAW, ignore_errors=True)


def gathered(folder: Path) -> list[RawRun]:
    """The runs that ``gather`` wrote. Raises: UserError where the files are missing."""
    for name in (TOKENS, RUNS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}: it is no finished validation")
    table = read_numbers(folder / TOKENS)
    metas = read_json_value(folder / RUNS, "the file")
    if not isinstance(metas, list) or "run" not in table:
        raise UserError(f"{folder} is broken: {RUNS} must be a list, and {TOKENS} have a column run")
    return [_from_meta(meta, _columns(table[table["run"] == number])) for number, meta in enumerate(metas)]


def _columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Of a table that may lack what later versions count."""
    return {name: table[name].to_numpy() for name in COLUMNS if name in table}


def _parquet(table: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file, compression="zstd", index=False)
    return file.getvalue()
