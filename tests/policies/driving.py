"""Drives a compiled device through a trace without a clock, one layer step at a time, and looks at what it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.state import State, plain_state
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig
from sim.engine.decision.core import IDLE, WAIT
from sim.engine.decision.counters import N_DEMANDED, N_HITS
from sim.engine.decision.device import Device
from sim.machine.capacity import CacheConfig
from sim.workload.steps import Schedule
from tests.support.replays import machine
from traces.format.trace import ScoreTable, Trace


@dataclass(frozen=True)
class LayerStep:
    """What happened in one layer step: routing of its step [B, L, K], predictions [layers ahead, rows, E], hits."""

    step: int
    layer: int
    routed: NDArray[np.int32]
    predicted: NDArray[np.float32]
    hits: int
    demanded: int


def as_plain(device: Device, routed: NDArray[np.int32]) -> State:
    """What a rule sees in a compiled device now, as a State of plain arrays; ``routed`` [B, L, K] of the step."""
    names = ("layer", "now", "phase", "step", "group", "num_tokens", "num_lookahead")
    spec, arrays = device.spec, device.arrays
    state = plain_state(spec.num_layers, spec.num_experts, spec.top_k, spec.max_tokens, spec.seed, spec.num_layers)
    inputs = {name: arrays[name].copy() for name in ("ids", "weights", "scores", "lookahead")}
    return replace(state, routed=routed, **inputs, **{name: device.state.get(name) for name in names})


def replay_with(trace: Trace, policy: Policy, others: Trace | None, batch_size: int = 1, **cache: Any) -> Replay:
    """A replay that may learn from ``others``."""
    setup = DeviceSetup(policy, machine(), CacheConfig(**cache), RunConfig(batch_size=batch_size))
    return assemble(trace, setup, others=others)


def drive(replay: Replay) -> Iterator[LayerStep]:
    """Run a replay with every copy arriving at once."""
    device, index = replay.device, -1
    for block in replay.schedule.blocks(replay.reader.block_rows()):
        data = replay.reader.read(block)
        for i in range(len(block)):
            index += 1
            rows = data.rows(int(block.bounds[i]), int(block.bounds[i + 1]))
            device.load(rows, int(block.phase[i]), int(block.group[i]))
            for layer in range(replay.trace.num_layers):
                before = device.counts.copy()
                finish(device, device.begin(layer).gpu_queue)
                ahead, tokens = device.state.get("num_predicted"), device.state.get("num_predicted_tokens")
                counted = device.counts - before
                predicted = device.arrays["predicted"][:ahead, :tokens].copy()
                yield LayerStep(index, layer, rows[0], predicted, int(counted[N_HITS]), int(counted[N_DEMANDED]))


def finish(device: Device, waiting: list[int]) -> None:
    """Copy and execute until the layer step is over."""
    while (code := device.next_copy()) != IDLE:
        if code == WAIT:
            device.finish_expert(waiting.pop(0))
        else:
            device.finish_copy()
    for expert in waiting:
        device.finish_expert(expert)
    device.end()
    while device.next_copy() != IDLE:
        device.finish_copy()


def step_rows(trace: Trace, batch_size: int) -> list[NDArray[np.int64]]:
    """The rows of the trace that each step serves."""
    blocks = Schedule(trace, batch_size).blocks(trace.num_tokens)
    return [rows for block in blocks for rows in np.split(block.rows, block.bounds[1:-1])]


def scrambled_after(trace: Trace, other: Trace, batch_size: int, step: int, layer: int) -> Trace:
    """``trace`` up to ``layer`` of step number ``step``, and ``other``, of the same shape, from there on."""
    steps = step_rows(trace, batch_size)
    later = np.zeros((trace.num_tokens, trace.num_layers), bool)
    later[steps[step], layer + 1 :] = True
    for rows in steps[step + 1 :]:
        later[rows] = True

    def mixed(first: Any, second: Any) -> Any:
        return np.where(later[:, : first.shape[1], None], second, first)

    def table(name: str) -> ScoreTable:
        return ScoreTable(mixed(getattr(trace, name).values, getattr(other, name).values))

    names = ("router_logits", "lookahead_before", "lookahead_after")
    return replace(
        trace,
        topk_ids=mixed(trace.topk_ids, other.topk_ids),
        topk_weights=mixed(trace.topk_weights, other.topk_weights),
        **{name: table(name) for name in names},
    )
