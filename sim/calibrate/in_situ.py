"""Executes decode steps of a trace in portions, for comparison with their simulation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE
from sim.assembly.replay import Replay
from sim.calibrate.samples import Sample, sampled
from sim.engine.decision.counters import N_DEMAND_COPIES, N_EXECUTED
from sim.engine.interface import BlockResult
from sim.execution.forced import ForcedEngine, select_steps
from sim.execution.run import fresh
from sim.execution.settings import RealSettings
from sim.machine.machine import Machine
from sim.machine.parts import ATTENTION, EXPERT
from sim.metrics.step_table import StepTable
from sim.workload.rows import BlockData
from sim.workload.steps import StepBlock


@dataclass(frozen=True, slots=True)
class Portion:
    """Some decode steps of a probe: which of the trace, what each took; ``waited``: how many steps waited for a core
    for too long. They are left out, unless all did."""

    probe: str
    sample: Sample
    steps: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    waited: int
    executed: int


class Probe:
    """One configuration of the runtime that runs a few decode steps at a time, in a ``with`` block."""

    def __init__(self, name: str, replay: Replay, settings: RealSettings) -> None:
        self.name, self.replay = name, replay
        self.engine = ForcedEngine(replay.spec, replace(settings, decode_only=True), resets=False)
        self.stream = self._stream()
        geometry = replay.geometry
        self.shared = (geometry.shared_bytes or (0,))[0] / (geometry.expert_bytes or (1,))[0]
        """Shared experts of a layer, counted in routed ones."""
        self.steps = 0

    def __enter__(self) -> Self:
        self.engine.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.engine.__exit__(*error)

    def _stream(self) -> Iterator[tuple[StepBlock, BlockData]]:
        """The steps of the trace one by one."""
        reader = fresh(self.replay.reader)
        for block in self.replay.schedule.blocks(reader.block_rows()):
            data = reader.read(block)
            for step in range(len(block)):
                single_step = select_steps(block, np.arange(len(block)) == step)
                yield single_step, BlockData(*data.rows(int(block.bounds[step]), int(block.bounds[step + 1])))

    def _next(self) -> tuple[int, BlockResult] | None:
        """Execute the next decode step -> (its index, its result); None at the end of the trace."""
        for block, data in self.stream:
            self.steps += 1
            result = self.engine.replay(block, data)
            if block.phase[0] == DECODE:
                return self.steps - 1, result
        return None

    def warm_up(self, steps: int) -> None:
        """Execute steps that no portion contains."""
        for _ in range(steps):
            self._next()

    def portion(self, number: int, seconds: float, max_wait_share: float = 1.0) -> Portion | None:
        """As many decode steps as fit in a time, at least one; None at the end of the trace.

        Steps whose threads waited for a core for more than a share of their time do not count, unless all did.
        """
        steps: list[int] = []
        results: list[BlockResult] = []
        copies = len(self.engine.executor.link.copies)
        with sampled(self.name, number) as sample:
            end = time.perf_counter() + seconds
            while not results or time.perf_counter() < end:
                executed = self._next()
                if executed is None:
                    break
                steps.append(executed[0])
                results.append(executed[1])
        if not results:
            return None
        latency_ns = np.array([result.latency_ns[0] for result in results])
        kept = self._waited_ns(len(results)) <= max_wait_share * latency_ns
        waited = int((~kept).sum())
        kept = kept if kept.any() else np.ones_like(kept)
        parts, counts = (np.concatenate([getattr(r, name) for r in results])[kept] for name in ("parts_ns", "counts"))
        layers = int(kept.sum()) * self.replay.trace.num_layers
        sample.values = {
            "step_s": float(latency_ns[kept].mean()) * 1e-9,
            "attention_s": float(parts[:, ATTENTION].sum()) * 1e-9 / layers,
            "expert_s": float(parts[:, EXPERT].sum()) * 1e-9 / (counts[:, N_EXECUTED].sum() + layers * self.shared),
            "copies_per_step": float(counts[:, N_DEMAND_COPIES].mean()),
        }
        took_ns = [end_ns - begin_ns for _, _, begin_ns, end_ns, _ in self.engine.executor.link.copies[copies:]]
        if took_ns:
            sample.values["copy_s"] = float(np.median(took_ns)) * 1e-9
        return Portion(self.name, sample, np.array(steps)[kept], latency_ns[kept], waited, len(results))

    def _waited_ns(self, count: int) -> NDArray[np.float64]:
        """How long main and copy thread waited for a core in each of the last steps; 0 where it is not known."""
        waited = [sum(ns or 0 for ns in record.run_queue_ns) for record in self.engine.records[-count:]]
        return np.array(waited, np.float64)


def simulated_ns(replay: Replay, machine: Machine) -> NDArray[np.int64]:
    """[S] time of every step of the replay on another machine."""
    columns = StepTable(replay.assemble_again(machine=machine)).run().columns()
    latency_ns: NDArray[np.int64] = columns["latency_ns"]
    return latency_ns
