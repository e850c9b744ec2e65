"""What the engine predicts for a setting of the plan: times per token and layer, and every count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.clocks.timeline_log import LOG_LAYER
from sim.engine.decision.counters import COUNTERS, PARTS
from sim.engine.interface import BlockResult
from sim.machine.hardware import Hardware
from sim.validation.plan import Plan, Setting, replay_of, steps_of


@dataclass(frozen=True, slots=True)
class Simulated:
    """Of the measured steps S: latency_ns [S], parts_ns [S, parts], counts [S, counters], layer_ns [S, L] or None."""

    latency_ns: NDArray[np.int64]
    parts_ns: NDArray[np.int64]
    counts: NDArray[np.int64]
    layer_ns: NDArray[np.int64] | None

    def part_ns(self, name: str) -> NDArray[np.int64]:
        return self.parts_ns[:, PARTS.index(name)]

    def count(self, name: str) -> NDArray[np.int64]:
        return self.counts[:, COUNTERS.index(name)]


def simulate(plan: Plan, setting: Setting, hardware: Hardware, layers: bool = False) -> Simulated:
    """Replay a setting on a machine; ``layers``: with the time of each layer, which is slower."""
    replay = replay_of(plan, setting, hardware, timeline=layers)
    results: list[BlockResult] = []
    logs = []
    for result in replay.blocks():
        results.append(result)
        logs.append(replay.engine.take_log())
    skipped, steps = steps_of(setting, plan.tokens)
    kept = slice(skipped, steps)
    latency_ns = np.concatenate([result.latency_ns for result in results])
    by_layer = layer_times(np.concatenate(logs), latency_ns, replay.trace.num_layers) if layers else None
    return Simulated(
        latency_ns[kept],
        np.concatenate([result.parts_ns for result in results])[kept],
        np.concatenate([result.counts for result in results])[kept],
        None if by_layer is None else by_layer[kept],
    )


def layer_times(log: NDArray[np.int64], latency_ns: NDArray[np.int64], num_layers: int) -> NDArray[np.int64]:
    """[S, L] from one layer's begin to the next one's; the last layer ends with the step."""
    begins = log[log[:, 0] == LOG_LAYER][:, 2].reshape(-1, num_layers)
    ends = np.concatenate([begins[:, 1:], (begins[:, 0] + latency_ns)[:, None]], axis=1)
    return np.asarray(ends - begins, np.int64)
