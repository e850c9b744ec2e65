"""Writes what a replay gave: metrics.json and the tables beside it, each whole or not at all."""

from __future__ import annotations

import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sim.assembly.fragility import fragile_capacity
from sim.assembly.replay import Replay
from sim.machine.geometry import model_layers
from sim.machine.runtime import OWN_RUNTIME, SAME_RUNTIME
from sim.machine.uncertainty import elasticities
from sim.metrics.block_sums import BlockSums
from sim.metrics.step_table import Metrics, StepTable
from sim.results.json_files import write_json
from sim.results.table_file import write_table

PACKAGES = ("moe-offload-sim", "numpy", "simpy", "numba", "hydra-core", "safetensors", "pyarrow")
SIMULATED = "SIMULATED"


@cache
def versions() -> dict[str, str]:
    """Versions of everything that decides a result, looked up once."""
    versions_of = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions_of[package] = version(package)
        except PackageNotFoundError:
            versions_of[package] = "not installed"
    return versions_of


def provenance(
    replay: Replay, metrics: Metrics, config: dict[str, Any], wall_s: float, layer_steps: int
) -> dict[str, Any]:
    """Where a result comes from and how far it reaches."""
    forecaster = replay.reader.forecaster
    return {
        "policy": replay.policy.name,
        "trace": config["trace"]["path"] or config["trace"]["embedded"],
        "trace_hash": replay.trace.content_hash,
        "trace_provenance": replay.trace.provenance,
        "hardware": replay.hardware.name,
        "hardware_label": replay.hardware.label,
        "runtime": replay.runtime.name,
        "runtime_label": replay.runtime.label,
        "comparison": OWN_RUNTIME if replay.setup.own_runtime else SAME_RUNTIME,
        "model": replay.geometry.model,
        "machine": {"hardware": asdict(replay.hardware), "runtime": asdict(replay.runtime)},
        "elasticities": elasticities(
            replay.geometry,
            replay.setup.machine,
            replay.setup.time,
            replay.policy.residency == "all",
            None if replay.spec.host is None else replay.spec.host.reading,
        ),
        "sizes": {name: value for name, value in asdict(replay.geometry).items() if value is not None},
        "layers": replay.trace.num_layers,
        "model_layers": model_layers(replay.geometry),
        **({} if replay.trace.recorded_layers is None else {"recorded_layers": replay.trace.recorded_layers}),
        "engine": replay.run.engine if replay.timed else "untimed",
        "label": SIMULATED,
        **({} if forecaster is None else {"predictor": forecaster.origin}),
        "estimated": replay.notes.estimated,
        "warnings": (*replay.notes.warnings, *fragile_capacity(metrics)),
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
    more: Metrics | None = None,
) -> Metrics:
    """Write a run's folder, the steps too where no sink took them, and the sums of each lockstep batch where given.

    ``more``: further metrics.

    metrics.json comes last, so that its presence means that the run is complete.
    """
    metrics = table.metrics() | (more or {})
    if table.sink is None:
        write_table(folder / "steps.parquet", table.columns())
    write_table(folder / "requests.parquet", table.requests())
    if blocks is not None:
        write_table(folder / "blocks.parquet", blocks.columns())
    layer_steps = len(table) * replay.trace.num_layers
    write_json(folder / "provenance.json", provenance(replay, metrics, config, wall_s, layer_steps))
    write_json(folder / "metrics.json", metrics)
    return metrics
