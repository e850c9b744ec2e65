"""A real model generates text while a policy moves its experts between the host and a few slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig, TimeConfig
from sim.engine.interface import BlockResult, StepResults
from sim.execution.forced import StepRecord
from sim.execution.live_model import OffloadedModel
from sim.execution.live_routing import routed_trace
from sim.execution.load import Load, Snapshot
from sim.execution.run import RealRun, real_run, undisturbed
from sim.execution.settings import RealSettings
from sim.live.router_output import StepArrays
from sim.live.weights import score_function_of
from sim.metrics.step_table import StepTable
from traces.format.trace import DECODE, PREFILL, Trace


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What generating under a policy gave.

    ``run``: as of a forced run. ``tokens``: generated ones of each prompt. ``trace``: the routing that the model
    chose, in float32. ``replay``: the same policy on that trace, to be simulated. ``logits``: [n, V] of each request,
    for the last token of its prompt and every generated one that was fed back.
    """

    run: RealRun
    tokens: list[list[int]]
    trace: Trace
    replay: Replay
    logits: list[NDArray[np.float32]]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    setup: DeviceSetup,
    settings: RealSettings | None = None,
    others: Trace | None = None,
) -> LiveRun:
    """Let a model continue prompts (token ids) greedily, one after the other, its experts in slots.

    Of ``settings`` device and link count, the sizes are the model's. ``setup.machine``: the costs that rules read; of
    ``setup.run`` only the seed counts. The last generated token of a prompt is not fed back.
    """
    settings = settings or RealSettings()
    longest = max((len(prompt) for prompt in prompts), default=0)
    live = OffloadedModel(model, setup, settings, max(1, longest), others)
    rows = _Rows()
    with undisturbed(), live:
        before = Snapshot.now()
        for number, prompt in enumerate(prompts):
            _continue(live, prompt, max_new_tokens, number, rows)
        load = Load.between(before, Snapshot.now())
    function = score_function_of(live.layers)
    trace = routed_trace(live.geometry, function, rows.steps, rows.lengths, rows.prompts, rows.phases)
    setup = replace(setup, run=RunConfig(seed=setup.run.seed), time=TimeConfig())
    setup.cache.require_fixed()
    replay = assemble(trace, setup, live.geometry, others=others)
    run = real_run(_table_of(live, rows, replay), rows.records, live.executor, settings, load)
    return LiveRun(run, rows.tokens, trace, replay, rows.logits)


@dataclass(slots=True)
class _Rows:
    """Results of the steps so far; of each request its tokens, what was generated, and its logits."""

    steps: list[StepArrays] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    results: list[StepResults] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)


def _continue(live: OffloadedModel, prompt: Sequence[int], max_new_tokens: int, number: int, rows: _Rows) -> None:
    """Generate from one prompt, greedily."""
    given, cache, seen = list(prompt), None, []
    rows.prompts.append(len(given))
    rows.lengths.append(0)
    rows.tokens.append([])
    for step in range(max_new_tokens):
        phase = DECODE if step else PREFILL
        output = _forward(live, given, cache, phase, number, rows)
        rows.phases += [phase] * len(given)
        rows.lengths[-1] += len(given)
        last = output.logits[0, -1].float()
        cache, given = output.past_key_values, [int(last.argmax())]
        rows.tokens[-1] += given
        seen.append(last.cpu().numpy())
    rows.logits.append(np.stack(seen))


def _forward(live: OffloadedModel, given: list[int], cache: Any, phase: int, number: int, rows: _Rows) -> Any:
    """One forward pass, with what it left noted."""
    import torch

    ids = torch.tensor([given], device=next(live.model.parameters()).device)
    totals, before = live.device.totals(), live.queues.read()
    rows.steps.append(live.begin_step(len(given), phase, number))
    with torch.no_grad():
        output = live.model(input_ids=ids, past_key_values=cache, use_cache=True)
    parts, layer_ns = live.end_step()
    waited = live.queues.since(before)
    with live.executor.guard:
        counts, lost = live.device.totals_since(totals)
    parts_ns = np.array([parts], np.int64)
    rows.results.append(StepResults(parts_ns.sum(axis=1), parts_ns, counts[None], lost[None]))
    checksum = float(output.logits[0, -1].double().sum())
    rows.records.append(StepRecord(len(rows.records), layer_ns, waited, checksum))
    return output


def _table_of(live: OffloadedModel, rows: _Rows, replay: Replay) -> StepTable:
    """The steps of the run, which are those of ``replay``, in order."""
    table = StepTable(replace(replay, engine=_Finished(live)))
    results, done = StepResults.joined(rows.results), 0
    for block in replay.schedule.blocks():
        table.add(BlockResult.of(block, results.take(slice(done, done + len(block)))))
        done += len(block)
    return table


class _Finished:
    """The engine of a run that is over: it only answers what was busy how long."""

    def __init__(self, live: OffloadedModel) -> None:
        self.device = live.device
        self.link_busy_ns = live.executor.link.busy_ns
        self.cpu_busy_ns = live.executor.cpu.busy_ns
        self.storage_busy_ns = 0

    def replay(self, block: Any, data: Any) -> BlockResult:
        raise RuntimeError("this run is over")

    def take_log(self) -> NDArray[np.int64]:
        return np.empty((0, 5), np.int64)

    def stop_log(self) -> None:
        """Nothing is kept."""
