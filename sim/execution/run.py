"""Runs a trace for real: what a replay would simulate, measured."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.assembly.replay import Notes, Replay
from sim.engine.interface import BlockResult
from sim.execution.cuda import require_cuda
from sim.execution.executor import Executor
from sim.execution.forced import ForcedEngine, StepRecord, first_steps
from sim.execution.load import Load, Snapshot
from sim.execution.settings import RealSettings
from sim.metrics.step_table import Columns, Metrics, StepTable
from sim.workload.rows import RowReader
from traces.errors import UserError

THREADS = ("run_queue_ns", "copy_run_queue_ns")
SWITCH_S = 1e-4
"""How long a thread of Python may keep another waiting."""


@dataclass(frozen=True, slots=True)
class RealRun:
    """What a real run gave. ``label`` says how its times are known: MEASURED, or EMULATED where the link was paced.

    ``columns``: as steps.parquet, every name with the same meaning, and beside them ``run_queue_ns`` and
    ``copy_run_queue_ns`` (waiting for a core, of the main and of the copy thread; NaN: not known) and ``checksum``.
    ``layer_ns`` [S, L]; what belongs to no layer (the head) is missing there. ``metrics``: as metrics.json.
    ``copies`` [n, 5]: layer, bytes, begin and end on the clock, whether the CPU computed experts when it began.
    ``load``: what else the machine did.
    """

    policy: str
    settings: RealSettings
    label: str
    columns: Columns
    layer_ns: NDArray[np.int64]
    metrics: Metrics
    copies: NDArray[np.int64]
    load: Load


@contextmanager
def undisturbed() -> Iterator[None]:
    """No collection of garbage while it lasts, quick changes between threads, one core for matmuls."""
    import torch

    threads, switch_s, collects = torch.get_num_threads(), sys.getswitchinterval(), gc.isenabled()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
        torch.set_num_threads(threads)
        if collects:
            gc.enable()


def run_forced(replay: Replay, settings: RealSettings) -> RealRun:
    """Execute the steps of ``replay`` on this machine; its routing is forced, its sizes are those of ``settings``.

    Assemble the replay with ``settings.geometry(trace)``. It is not used up: its engine can replay the same steps.

    Raises: UserError where replay and settings do not fit, or where the policy cannot be executed for real.
    """
    check(replay, settings)
    with undisturbed(), ForcedEngine(replay.spec, settings, replay.cache.resets) as engine:
        real = replace(replay, reader=fresh(replay.reader), engine=engine, notes=Notes())
        before = Snapshot.now()
        table = StepTable(real).run(executed_blocks(real, settings))
        load = Load.between(before, Snapshot.now())
        if not len(table):
            skipped = f"skip_steps={settings.skip_steps}, decode_only={settings.decode_only}"
            raise UserError(f"{skipped}: that skips every step of the trace")
        return real_run(table, engine.records, engine.executor, settings, load)


def check(replay: Replay, settings: RealSettings) -> None:
    """Raises UserError where the replay is of other sizes than the settings, or has no clock."""
    if settings.device == "cuda":
        require_cuda()
    sizes = set(replay.geometry.expert_bytes or ())
    if sizes != {settings.expert_bytes}:
        raise UserError(
            f"the replay's experts take {sorted(sizes)} bytes and the settings' {settings.expert_bytes}: assemble it "
            "with settings.geometry(trace)"
        )
    if replay.cache.sequential:
        raise UserError(f"cache.semantics={replay.cache.semantics}: a real run executes whole steps; use step")
    if replay.room is not None or replay.setup.prefill.goes_past or replay.schedule.think_ns:
        raise UserError(
            "cache.bytes=auto, prefill.order and session.think_s are simulated only: a real run "
            "executes steps with one capacity, through the cache and without pauses"
        )
    if settings.steps is not None and settings.skip_steps >= settings.steps:
        raise UserError(f"skip_steps={settings.skip_steps}: must be below steps={settings.steps}")


def fresh(reader: RowReader) -> RowReader:
    """A reader of the same rows, from the first."""
    return replace(reader, position=0)


def executed_blocks(replay: Replay, settings: RealSettings) -> Iterator[BlockResult]:
    """Execute block by block, up to ``settings.steps``."""
    left = settings.steps
    for block in replay.schedule.blocks(replay.reader.block_rows()):
        if left is not None:
            block = first_steps(block, left)
            left -= len(block)
        result = replay.engine.replay(block, replay.reader.read(block))
        if len(result.block):
            yield result
        if left == 0:
            return


def real_run(
    table: StepTable, records: list[StepRecord], executor: Executor, settings: RealSettings, load: Load
) -> RealRun:
    """Everything that a run left. ``records``: one for each step of ``table``."""
    columns = table.columns() | {"step": np.array([record.step for record in records])} | thread_columns(records)
    return RealRun(
        policy=table.replay.policy.name,
        settings=settings,
        label=settings.label,
        columns=columns | {"checksum": np.array([record.checksum for record in records])},
        layer_ns=np.array([record.layer_ns for record in records], np.int64),
        metrics=table.metrics(),
        copies=np.array(executor.link.copies, np.int64).reshape(-1, 5),
        load=load,
    )


def thread_columns(records: list[StepRecord]) -> Columns:
    """Waiting for a core, in ns; NaN where the system does not say."""
    waited: list[list[Any]] = [[np.nan if ns is None else ns for ns in record.run_queue_ns] for record in records]
    return dict(zip(THREADS, np.array(waited, np.float64).T, strict=True))
