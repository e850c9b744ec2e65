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
from sim.config import RunConfig, TimeConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
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


def machine(**changes: Any) -> Hardware:
    """A machine on which a 1000-byte expert takes 1000 ns to copy, and nothing else takes time unless changed."""
    figures: dict[str, Any] = {
        "name": "test",
        "gpu_memory_bytes": 10**9,
        "gpu_memory_bytes_per_s": 1e18,
        "gpu_flops_per_s": 1e24,
        "link_latency_s": 0.0,
        "link_bytes_per_s": 1e9,
        "staging_slots": 2,
        "cpu_load_ratio": 0.5,
        "dequantise_bytes_per_s": 1e18,
    }
    return Hardware(**(figures | changes))


def replay_of(trace: Trace, policy: str | Policy, hardware: Hardware | None = None, **knobs: Any) -> Replay:
    """A replay of ``trace``; knobs of the cache and of the run by name."""
    run = RunConfig(**{key: knobs.pop(key) for key in RUN_KNOBS if key in knobs})
    time = TimeConfig(**knobs.pop("time", {}))
    chosen = POLICIES[policy] if isinstance(policy, str) else policy
    return assemble(trace, DeviceSetup(chosen, hardware or machine(), CacheConfig(**knobs), run, time))


def run(replay: Replay) -> dict[str, Any]:
    """Run to the end -> metrics."""
    from sim.metrics.step_table import StepTable

    table = StepTable(replay)
    table.run()
    return dict(table.metrics())
