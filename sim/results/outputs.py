"""Writes what a replay gave: metrics.json and the tables beside it, each whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sim.assembly.fragility import fragile_capacity
from sim.assembly.replay import Replay
from sim.metrics.block_sums import BlockSums
from sim.metrics.step_table import Columns, Metrics, StepTable

PACKAGES = ("moe-offload-sim", "numpy", "simpy", "numba", "hydra-core", "safetensors", "pyarrow")
SIMULATED = "SIMULATED"
ROW_GROUP = 8192


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, then rename: a reader never sees half a file."""
    beside = beside_of(path)
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def beside_of(path: Path) -> Path:
    """Where a file is written before it gets its name: apart for each process, as two may write into one folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; refuses NaN."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


class TableFile:
    """A Parquet table that grows by pieces and appears under its name when it is complete.

    Row groups hold ``ROW_GROUP`` rows however large the pieces are, so that the same rows give the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.beside = path, beside_of(path)
        self.waiting: list[Columns] = []
        self.writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def write(self, columns: Columns) -> None:
        """Add rows: columns of equal length, the same names every time."""
        self.waiting.append(columns)
        while self._waiting_rows() >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _waiting_rows(self) -> int:
        return sum(len(next(iter(columns.values()))) for columns in self.waiting)

    def _flush(self, count: int) -> None:
        """Write the first ``count`` waiting rows as one row group."""
        import pyarrow as pa  # only now: a replay begins before pyarrow is loaded
        import pyarrow.parquet as pq

        whole = {name: np.concatenate([columns[name] for columns in self.waiting]) for name in self.waiting[0]}
        self.waiting = [{name: column[count:] for name, column in whole.items()}]
        table = pa.table({name: arrow_array(column[:count]) for name, column in whole.items()})
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = pq.ParquetWriter(self.beside, table.schema, compression="zstd")
        self.writer.write_table(table)

    def close(self) -> None:
        """Write what is left, flush to disk, rename."""
        if self.waiting and (self._waiting_rows() or self.writer is None):
            self._flush(ROW_GROUP)
        if self.writer is None:
            raise ValueError(f"{self.path.name}: nothing was written, so the columns are not known")
        self.writer.close()
        with self.beside.open("rb+") as file:
            os.fsync(file.fileno())
        self.beside.replace(self.path)

    def abandon(self) -> None:
        """Take away what was written and has not got its name."""
        if self.writer is not None:
            with suppress(OSError):  # a full disk fails again
                self.writer.close()
            self.beside.unlink(missing_ok=True)


class Sinks:
    """Passes the columns of a table on to several takers."""

    def __init__(self, blocks: BlockSums, *files: TableFile) -> None:
        self.blocks, self.files = blocks, files

    def write(self, columns: Columns) -> None:
        """Pass on a piece of the table."""
        self.blocks.write(columns)
        for file in self.files:
            file.write(columns)


def arrow_array(column: NDArray[Any]) -> Any:
    """An Arrow array over the memory of a column: Arrow's own conversion would load pandas, half a second of a run."""
    import pyarrow as pa

    data = np.ascontiguousarray(column)
    return pa.Array.from_buffers(pa.from_numpy_dtype(data.dtype), len(data), [None, pa.py_buffer(data)])


def write_table(path: Path, columns: Columns) -> None:
    """Columns as a Parquet file."""
    with TableFile(path) as file:
        file.write(columns)


@cache
def versions() -> dict[str, str]:
    """Versions of everything that decides a result, looked up once."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def provenance(replay: Replay, config: dict[str, Any], wall_s: float, layer_steps: int) -> dict[str, Any]:
    """Where a result comes from and how far it reaches."""
    return {
        "policy": replay.policy.name,
        "trace": config["trace"]["path"] or config["trace"]["embedded"],
        "trace_hash": replay.trace.content_hash,
        "trace_provenance": replay.trace.provenance,
        "hardware": replay.hardware.name,
        "hardware_label": replay.hardware.label,
        "model": replay.geometry.model,
        "engine": replay.run.engine if replay.timed else "untimed",
        "label": SIMULATED,
        "estimated": replay.estimated,
        "warnings": replay.warnings,
        "cache": config["cache"]
        | {"effective_fraction": replay.pools.fraction, "total_bytes": replay.pools.total_bytes},
        "batch_size": replay.run.batch_size,
        "seed": replay.run.seed,
        "replay_wall_s": wall_s,
        "layer_steps": layer_steps,
        "versions": versions(),
        "config": config,
    }


def write_run(
    folder: Path,
    replay: Replay,
    table: StepTable,
    config: dict[str, Any],
    wall_s: float,
    blocks: BlockSums | None = None,
) -> Metrics:
    """Write a run's folder, the steps too where no sink took them, and the sums of each lockstep batch where given.

    metrics.json comes last, so that its presence means that the run is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = table.metrics()
    if table.sink is None:
        write_table(folder / "steps.parquet", table.columns())
    write_table(folder / "requests.parquet", table.requests())
    if blocks is not None:
        write_table(folder / "blocks.parquet", blocks.columns())
    replay.warnings += fragile_capacity(metrics)
    write_json(folder / "provenance.json", provenance(replay, config, wall_s, len(table) * replay.trace.num_layers))
    write_json(folder / "metrics.json", metrics)
    return metrics
