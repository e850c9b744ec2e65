"""Builds replays for tests without files or command line."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from policies.assignment.link_only import LinkOnly
from policies.assignment.two_pointer import TwoPointer
from policies.base import Policy
from policies.eviction.belady import Belady
from policies.eviction.belady_admit import BeladyAdmit
from policies.eviction.lru import Lru
from policies.eviction.score_window import ScoreWindow
from policies.prediction.lookahead import Lookahead
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.prefetch.top_score import TopScore
from policies.substitution.none import NoSubstitution
from policies.substitution.score_band import ScoreBand
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig, SpeculateConfig, TimeConfig
from sim.machine.capacity import CacheConfig
from sim.machine.durations import copy_s
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from traces.format.trace import Trace

BARE = Policy("lru", Lru(), NoPrediction(), NoPrefetch(), NoSubstitution(), LinkOnly())
POLICIES = {
    "lru": BARE,
    "belady": replace(BARE, name="belady", eviction=Belady()),
    "belady_admit": replace(BARE, name="belady_admit", eviction=BeladyAdmit()),
    "score_window": replace(BARE, name="score_window", eviction=ScoreWindow(window=4)),
    "all_resident": replace(BARE, name="all_resident", residency="all"),
    "on_demand": replace(BARE, name="on_demand", residency="none"),
    "substitute": replace(BARE, name="substitute", substitution=ScoreBand()),
    "cpu": replace(BARE, name="cpu", assignment=TwoPointer()),
    "prefetch": replace(BARE, name="prefetch", prediction=Lookahead(), prefetch=TopScore()),
    "prefetch_end": replace(BARE, name="prefetch_end", prediction=Lookahead("after"), prefetch=TopScore()),
    "importance": Policy("importance", ScoreWindow(), Lookahead(), TopScore(), ScoreBand(), TwoPointer()),
}
RUN_KNOBS = tuple(knob.name for knob in fields(RunConfig))
DEMAND_ONLY = ("lru", "score_window", "belady_admit")


def machine(cpu_ratio: float | None = 0.5, **changes: Any) -> Machine:
    """A machine on which a 1000-byte expert takes 1000 ns to copy, and nothing else takes time unless changed.

    ``cpu_ratio``: time of such an expert on the CPU in copies of it; None: there is none. ``changes``: figures of
    hardware or runtime.
    """
    if "dequantise_bytes_per_s" in changes:
        rate = changes.pop("dequantise_bytes_per_s")
        changes["dequantise_share"] = rate / changes.get("gpu_memory_bytes_per_s", 1e18)
    hardware = Hardware("test", 10**9, 1e18, 1e24, 0.0, 1e9)
    found = Machine(hardware, Runtime("test", staging_slots=2, dequantise_share=1.0)).with_figures(changes)
    pinned = found.with_figures({"memory": "pinned"})
    rates = () if cpu_ratio is None else ("cpu_memory_bytes_per_s",)
    rate = 1000 / ((cpu_ratio or 1.0) * float(copy_s([1000], pinned)[0]))
    return found.with_figures({name: min(rate, 1e300) for name in rates if name not in changes})


def replay_of(trace: Trace, policy: str | Policy, hardware: Machine | None = None, **knobs: Any) -> Replay:
    """A replay of ``trace``; knobs of the cache and of the run by name, those of drafts in ``speculate``."""
    run = RunConfig(**{key: knobs.pop(key) for key in RUN_KNOBS if key in knobs})
    time = TimeConfig(**knobs.pop("time", {}))
    speculate = SpeculateConfig(**knobs.pop("speculate", {}))
    chosen = POLICIES[policy] if isinstance(policy, str) else policy
    return assemble(
        trace, DeviceSetup(chosen, hardware or machine(), CacheConfig(**knobs), run, time, speculate=speculate)
    )


def run(replay: Replay) -> dict[str, Any]:
    """Run to the end -> metrics."""
    from sim.metrics.step_table import StepTable

    table = StepTable(replay)
    table.run()
    return dict(table.metrics())
