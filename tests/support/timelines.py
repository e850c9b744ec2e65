"""Replays whose every nanosecond is asked for: traces from lists of experts, times of steps, slices of the timeline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies.base import Policy
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig
from sim.engine.clocks.timeline_log import LOG_BACK, LOG_COPY, LOG_CPU, LOG_EXPERT, LOG_LAYER, LOG_PREFETCH
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.machine import Machine
from sim.machine.parts import PARTS
from sim.metrics.step_table import StepTable
from tests.support.random_traces import routed
from tests.support.replays import machine, replay_of
from traces.format.ranks import stored_ids
from traces.format.trace import Trace

TIMED = ("simpy", "compiled")
"""Engines with a clock."""
KINDS = {
    "layer": LOG_LAYER, "expert": LOG_EXPERT, "copy": LOG_COPY, "prefetch": LOG_PREFETCH, "back": LOG_BACK,
    "cpu": LOG_CPU,
}  # fmt: skip


def rows(*tokens: list[list[int]], prompt: int = 0, num_experts: int = 8, **sizes: Any) -> Trace:
    """One request: ``tokens[t][l]`` lists the experts of token t in layer l, the first ``prompt`` tokens prefill.

    -1 stands for no expert.
    """
    return requests([list(tokens)], [prompt], num_experts, **sizes)


def requests(tokens: list[list[list[list[int]]]], prompts: list[int], num_experts: int = 8, **sizes: Any) -> Trace:
    """Several requests, ``tokens[r][t][l]``; ``sizes`` are fields of the trace's geometry, experts alone by default."""
    ids = np.array([token for request in tokens for token in request])
    trace = routed(ids, num_experts, prompts, [len(request) for request in tokens])
    if (ids < 0).any():
        trace = replace(trace, fewer=True, topk_ids=stored_ids(ids, num_experts))
    return replace(trace, geometry=replace(trace.geometry, **({"hidden_size": 0} | sizes)))


@dataclass(frozen=True)
class Timed:
    """What a replay took: ``latency_ns`` of each step, ``parts_ns`` and ``counts`` by name, summed over the steps."""

    replay: Replay
    metrics: dict[str, Any]
    latency_ns: list[int]
    parts_ns: dict[str, int]
    counts: dict[str, int]
    log: list[tuple[int, ...]]

    def slices(self, *kinds: str) -> list[tuple[int, int, int]]:
        """(key layer * E + expert, begin, end) of the slices of some kinds, in order of time."""
        wanted = {KINDS[kind] for kind in kinds}
        return sorted(((row[1], row[2], row[3]) for row in self.log if row[0] in wanted), key=lambda slice: slice[1:])

    def spent(self) -> dict[str, int]:
        """The parts that took time."""
        return {part: spent_ns for part, spent_ns in self.parts_ns.items() if spent_ns}


def timed(trace: Trace, policy: str | Policy, hardware: Machine | None = None, **knobs: Any) -> Timed:
    """Replay with a timeline; ``others``: requests to learn from."""
    others = knobs.pop("others", None)
    if others is None:
        return measured(replay_of(trace, policy, hardware, timeline=True, **knobs))
    assert not isinstance(policy, str)
    run = RunConfig(timeline=True, engine=knobs.pop("engine"))
    setup = DeviceSetup(policy, hardware or machine(), CacheConfig(**knobs), run)
    return measured(assemble(trace, setup, others=others))


def measured(replay: Replay) -> Timed:
    """Run a replay that keeps a timeline; checks that the parts of every step sum to its latency."""
    table = StepTable(replay)
    table.run()
    columns = table.columns()
    parts = np.stack([columns[f"{part}_ns"] for part in PARTS])
    assert (parts.sum(axis=0) == columns["latency_ns"]).all()
    return Timed(
        replay,
        dict(table.metrics()),
        columns["latency_ns"].tolist(),
        dict(zip(PARTS, parts.sum(axis=1).tolist(), strict=True)),
        {name: int(columns[name].sum()) for name in COUNTERS},
        [tuple(row) for row in replay.engine.take_log().tolist()],
    )
