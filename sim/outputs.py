"""Writes what a replay gave: metrics.json and the tables beside it, each whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sim.build import Replay
from sim.metrics import Metrics, StepTable

PACKAGES = ("moe-offload-sim", "numpy", "simpy", "numba", "hydra-core", "safetensors", "pyarrow")
SIMULATED = "SIMULATED"


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, then rename: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; refuses NaN."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Columns as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())


def versions() -> dict[str, str]:
    """Versions of everything that decides a result."""
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


def write_run(folder: Path, replay: Replay, table: StepTable, config: dict[str, Any], wall_s: float) -> Metrics:
    """Write a run's folder; metrics.json comes last, so that its presence means that the run is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = table.metrics()
    write_table(folder / "steps.parquet", table.columns())
    write_table(folder / "requests.parquet", table.requests())
    write_json(
        folder / "provenance.json", provenance(replay, config, wall_s, len(table.rows) * replay.trace.num_layers)
    )
    write_json(folder / "metrics.json", metrics)
    return metrics
