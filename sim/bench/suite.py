"""What every policy is scored on: the same requests, machines, runtimes, budgets and batch sizes, as version 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig

from policies.needs import SEES_FUTURE
from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.assembly.replay import Replay
from sim.metrics.block_sums import BlockSums
from sim.metrics.registry import decode_time, quantity_of
from sim.metrics.step_table import Metrics, StepTable
from sim.results.table_file import Sinks
from sim.statistics.run_sample import Run, block_ratio
from traces.errors import UserError

VERSION = 2
TRACE_HASH = "9f29ca28821074e91c866fa47468916808d086e0ec5c7b8da8ed668ac477962d"
"""Of the embedded trace, of whose 24 requests the last 6 are held out for rules that learn."""
REQUESTS = ("trace=demo", "trace.fit_requests=6", "engine=compiled")
MACHINES = (
    ("hardware=s1_rtx3080ti", "runtime=smoe_2026_07", "model=deepseek_moe_16b"),
    ("hardware=s3_a6000", "runtime=smoe_2026_07", "model=qwen2_57b_a14b"),
    ("hardware=rtx4090", "runtime=cuda_graphs", "model=qwen3_30b_a3b"),
)
FRACTIONS = (0.125, 0.25, 0.5)
BATCHES = (1, 4)
ENDS = ("on_demand", "all_resident")
"""Score 0 and score 1."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One machine, budget and batch size."""

    machine: tuple[str, ...]
    fraction: float
    batch: int

    @property
    def model(self) -> str:
        """Whose sizes the experts have."""
        return next(word.removeprefix("model=") for word in self.machine if word.startswith("model="))

    def config(self, policy: DictConfig) -> DictConfig:
        """What `python -m sim run` would compose for a policy here."""
        config = _on(self.machine).copy()
        config.policy = policy
        config.cache.fraction, config.batch_size = self.fraction, self.batch
        return config


@cache
def _on(machine: tuple[str, ...]) -> DictConfig:
    return compose_run(*REQUESTS, *machine, "policy=lru")


CELLS = tuple(Cell(machine, fraction, batch) for batch in BATCHES for machine in MACHINES for fraction in FRACTIONS)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a policy gave in one cell: decode time and steps of every block of requests, [blocks, 2]."""

    times: NDArray[np.float64]
    lost_gate_mass: float
    """Of decode steps."""
    replaces: bool
    """Whether any expert, of prompts too, was not executed as it was routed."""
    in_prompts: bool
    """Whether one of prompts was not."""


def replayed(cell: Cell, policy: DictConfig) -> tuple[Replay, Replayed]:
    """Replay a policy, composed, in a cell.

    Raises: UserError where it cannot be replayed there, or replays other requests than the suite's.
    """
    replay = build(cell.config(policy))
    if replay.trace.content_hash.partition("/")[0] != TRACE_HASH or replay.trace.num_requests != 18:
        raise UserError(
            f"policy {replay.policy.name}: replays {replay.trace.num_requests} requests of another trace or split: the "
            "suite's are the first 18 of the embedded trace"
        )
    sums = BlockSums(replay.trace.num_layers, replay.pools.slots(), replay.cache.sequential)
    table = StepTable(replay, Sinks(sums))
    table.run()
    run = Run(replay.policy.name, pd.DataFrame(sums.columns()), pd.DataFrame(table.requests()))
    columns = np.stack(block_ratio(run, quantity_of(decode_time((cell.batch,)))), axis=1)
    metrics = table.metrics()
    in_prompts = _changed(metrics, "prefill.")
    replaces = in_prompts or _changed(metrics, "decode.")
    return replay, Replayed(columns, _number(metrics, "decode.lost_gate_mass"), replaces, in_prompts)


NOT_AS_ROUTED = ("substitution_rate", "drop_rate", "lost_gate_mass")


def _changed(metrics: Metrics, phase: str) -> bool:
    """Whether steps of a phase execute anything else than what was routed, or that in low precision."""
    return any(_number(metrics, phase + name) > 0 for name in NOT_AS_ROUTED)


def _number(metrics: Metrics, name: str) -> float:
    """A metric that the suite's trace has, 0 where there is nothing to count. Raises: KeyError where there is none."""
    found = metrics[name]
    return float(found) if isinstance(found, int | float) else 0.0


@dataclass(frozen=True, slots=True)
class Played:
    """A policy in all cells."""

    name: str
    cells: tuple[Replayed, ...]
    sees_future: bool

    @property
    def replaces(self) -> bool:
        """Whether it executes anything else than what was routed, in any cell."""
        return any(cell.replaces for cell in self.cells)

    @property
    def in_prompts(self) -> bool:
        """Whether it does in prompts."""
        return any(cell.in_prompts for cell in self.cells)


def composed(policy: Sequence[str]) -> DictConfig:
    """The policy that these overrides choose. Raises: as `compose_run`."""
    found: DictConfig = compose_run(*REQUESTS, *policy).policy
    return found


def play(policy: DictConfig, tell: Callable[[], object] = lambda: None) -> Played:
    """Replay a policy, composed, in every cell, `tell` after each. Raises: UserError as ``replayed``."""
    cells, last = [], None
    for cell in CELLS:
        last, found = replayed(cell, policy)
        cells.append(found)
        tell()
    assert last is not None
    return Played(last.policy.name, tuple(cells), bool(SEES_FUTURE & last.policy.needs().keys()))
