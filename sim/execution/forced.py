"""Forced routing: a trace states which experts run; weights are synthetic, copies and computation are real."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE
from sim.engine.clocks.untimed_engine import untimed_step
from sim.engine.decision.device import Device, DeviceSpec
from sim.engine.interface import BlockResult
from sim.execution.backend import make_backend
from sim.execution.executor import Executor, single_thread
from sim.execution.load import RunQueue
from sim.execution.settings import RealSettings
from sim.execution.synthetic import INPUTS, synthetic_model
from sim.machine.parts import ATTENTION, EXPERT, SYNC
from sim.workload.rows import BlockData
from sim.workload.steps import StepBlock

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Measurements of a real step that no simulated step has; None: the system does not report it."""

    step: int
    layer_ns: list[int]
    run_queue_ns: list[int | None]
    """Waiting for a core: of the main thread, of the copy thread."""
    checksum: float
    """Sum over the step's outputs."""


def select_steps(block: StepBlock, steps: NDArray[np.bool_]) -> StepBlock:
    """Some steps of a block, [S] bool, as a block of their own."""
    sizes = np.diff(block.bounds)
    rows = np.repeat(steps, sizes)
    return StepBlock(
        block.rows[rows],
        block.requests[rows],
        np.concatenate([[0], np.cumsum(sizes[steps])]).astype(np.int64),
        block.group[steps],
        block.phase[steps],
        block.kv_tokens[steps],
        block.attended_pairs[steps],
        block.pause_ns[steps],
        None if block.drafted is None else block.drafted.take(steps, rows),
    )


def first_steps(block: StepBlock, count: int) -> StepBlock:
    """The first steps of a block."""
    return select_steps(block, np.arange(len(block)) < count)


class ForcedEngine:
    """An engine whose clock is the real one. Use it in a ``with`` block; ``records`` has one entry per step."""

    def __init__(self, spec: DeviceSpec, settings: RealSettings, resets: bool) -> None:
        self.settings, self.resets, self.spec = settings, resets, spec
        model = self.model = synthetic_model(settings, spec.num_layers, spec.num_experts)
        self.executor = Executor(
            spec, lambda slots: make_backend(settings, model.layout, model.host, slots), model.source_of
        )
        self.runs: Any = model
        if settings.cuda_graphs:
            from sim.execution.cuda_graphs import GraphedModel

            self.runs = GraphedModel(model, self.executor.device_weights)
        self.records: list[StepRecord] = []
        self.queues = RunQueue()
        self.step = 0
        self.stale = False
        """Whether steps were decided since the slots were filled."""

    def __enter__(self) -> Self:
        single_thread()
        self.executor.__enter__()
        self.queues = RunQueue(threading.get_native_id(), self.executor.link.native_id or 0)
        return self

    def __exit__(self, *error: Any) -> None:
        self.executor.__exit__(*error)
        self.queues.close()

    @property
    def device(self) -> Device:
        return self.executor.device

    @property
    def link_busy_ns(self) -> int:
        return self.executor.link.busy_ns

    storage_busy_ns = 0
    """Every expert lies in memory."""

    @property
    def cpu_busy_ns(self) -> int:
        return self.executor.cpu.busy_ns

    def take_log(self) -> NDArray[np.int64]:
        """No timeline is kept."""
        return np.empty((0, 5), np.int64)

    def stop_log(self) -> None:
        """Nothing is kept anyway."""

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Execute the next steps; those that the settings skip are only decided and leave no row."""
        executed = self.step + np.arange(len(block)) >= self.settings.skip_steps
        if self.settings.decode_only:
            executed &= block.phase == DECODE
        result = BlockResult.empty(select_steps(block, executed))
        places = np.cumsum(executed) - 1
        for step in range(len(block)):
            if executed[step]:
                self._execute(block, data, step, result, int(places[step]))
            else:
                self._decide(block, data, step)
        return result

    def _enter(self, block: StepBlock, data: BlockData, step: int) -> tuple[NDArray[Any], ...]:
        if self.resets:
            self.executor.enter_group(int(block.group[step]))
        rows = data.rows(int(block.bounds[step]), int(block.bounds[step + 1]))
        self.executor.load(rows, int(block.phase[step]), int(block.group[step]))
        self.step += 1
        return rows

    def _decide(self, block: StepBlock, data: BlockData, step: int) -> None:
        """Decide a step without a clock."""
        rows = self._enter(block, data, step)
        with self.executor.guard:
            self.executor.link.hold()
            untimed_step(*self.device.structs, False, *rows)
            self.executor.link.resume()
        self.stale = True

    def _execute(self, block: StepBlock, data: BlockData, step: int, result: BlockResult, row: int) -> None:
        device = self.device
        totals = device.totals()
        self._enter(block, data, step)
        if self.stale:
            self.executor.fill()
            self.stale = False
        tokens = block.rows[int(block.bounds[step]) : int(block.bounds[step + 1])]
        before = self.queues.read()
        state = self._forward(self.model.inputs[tokens % INPUTS])
        parts, layer_ns = self.executor.clock.finish()
        waited = self.queues.since(before)
        result.latency_ns[row], result.parts_ns[row] = sum(parts), parts
        with self.executor.guard:
            result.counts[row], result.lost[row] = device.totals_since(totals)
        self.records.append(StepRecord(self.step - 1, layer_ns, waited, float(state.double().sum())))

    def _forward(self, state: torch.Tensor) -> torch.Tensor:
        """All layers and the head for the tokens [B, H] of a step -> their last state."""
        model, executor = self.model, self.executor
        clock, backend = executor.clock, executor.backend
        clock.start()
        for layer in range(self.spec.num_layers):
            state = self.runs.attention(layer, state)
            clock.mark(ATTENTION)
            backend.readback()
            clock.mark(SYNC)
            state = self._experts(layer, state)
        model.head(state)
        clock.mark(ATTENTION)
        return state

    def _experts(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """The layer's experts, shared ones included, added to the state."""
        executor, tokens = self.executor, state.shape[0]
        plan = executor.begin(layer)
        executed = self.device.arrays["executed_ids"][:tokens]
        rows = {}
        if tokens > 1:
            rows = {e: rows_of(executed, e).to(state.device) for e in (*plan.gpu_queue, *plan.cpu_queue)}
        on_host = state.cpu() if plan.cpu_queue else state

        def compute(expert: int, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
            output: torch.Tensor = self.runs.expert(state[rows[expert]] if tokens > 1 else state, weights)
            return output

        def compute_on_host(expert: int, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return self.model.expert(on_host[rows[expert].cpu()] if tokens > 1 else on_host, weights)

        executor.start_cpu(plan, compute_on_host)
        shared = self.model.shared(layer, state)
        outputs = executor.run(plan, compute)
        state = self._combine(state, shared, outputs, rows)
        executor.clock.mark(EXPERT)
        executor.end()
        return state

    def _combine(
        self, state: torch.Tensor, shared: torch.Tensor | None, outputs: dict[int, Any], rows: dict[int, Any]
    ) -> torch.Tensor:
        """Every expert with weight 1 / K, in order of the experts, whatever the order in which they came."""
        total = state if shared is None else state + shared
        share = 1.0 / self.spec.top_k
        if not rows:
            for expert in sorted(outputs):
                total = total + outputs[expert].to(total.device) * share
            return total
        total = total.clone()
        for expert in sorted(outputs):
            total.index_add_(0, rows[expert], outputs[expert].to(total.device), alpha=share)
        return total


def rows_of(executed: NDArray[np.int32], expert: int) -> torch.Tensor:
    """Tokens that execute an expert."""
    import torch

    return torch.from_numpy(np.flatnonzero((executed == expert).any(axis=1)))
