"""What the engine predicts for a setting of the plan: times per token and layer, and every count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.clocks.timeline_log import LOG_LAYER
from sim.engine.interface import StepResults
from sim.machine.machine import Machine
from sim.validation.plan import Plan, Setting, replay_of, steps_of


@dataclass(slots=True)
class Simulated(StepResults):
    """The measured steps S as simulated; ``layer_ns`` [S, L] or None."""

    layer_ns: NDArray[np.int64] | None


def simulate(plan: Plan, setting: Setting, machine: Machine, layers: bool = False) -> Simulated:
    """Replay a setting on a machine; ``layers``: with the time of each layer, which is slower."""
    replay = replay_of(plan, setting, machine, timeline=layers)
    blocks, logs = [], []
    for block in replay.blocks():
        blocks.append(block)
        logs.append(replay.engine.take_log())
    results, kept = StepResults.joined(blocks), slice(*steps_of(setting, plan.tokens))
    layer_ns = None
    if layers:
        layer_ns = layer_times(np.concatenate(logs), results.latency_ns, replay.trace.num_layers)[kept]
    measured = results.take(kept)
    return Simulated(measured.latency_ns, measured.parts_ns, measured.counts, measured.lost, layer_ns)


def layer_times(log: NDArray[np.int64], latency_ns: NDArray[np.int64], num_layers: int) -> NDArray[np.int64]:
    """[S, L] from one layer's begin to the next one's; the last layer ends with the step."""
    begins = log[log[:, 0] == LOG_LAYER][:, 2].reshape(-1, num_layers)
    ends = np.concatenate([begins[:, 1:], (begins[:, 0] + latency_ns)[:, None]], axis=1)
    return np.asarray(ends - begins, np.int64)
