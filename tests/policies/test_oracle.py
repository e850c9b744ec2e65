"""The bound of demand-only rules: against every choice that could be made, by hand, and on recorded routing."""

import argparse
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from policies.eviction.oracle import Oracle
from sim.assembly.catalogue import load_policy
from tests.sim.engine.test_extremes import both
from tests.support.random_traces import random_trace, routed
from tests.support.replays import BARE, POLICIES, machine, replay_of, run
from tests.support.timelines import TIMED, rows, timed
from traces.importers import gpt_oss

ORACLE = replace(BARE, name="oracle", eviction=Oracle())
ADMIT = replace(BARE, name="oracle_admit", eviction=Oracle(admit_all=True))
A, B, C, D = range(4)


def most_hits(steps: list[frozenset[int]], slots: int, admit_all: bool) -> int:
    """Hits of the best demand-only rule, by trying every content after every step.

    After a step the cache may hold any ``slots`` of what it held and what was demanded; with ``admit_all`` what was
    missed must be among them, or as much of it as fits.
    """
    reached = {frozenset[int](): 0}
    for demand in steps:
        following: dict[frozenset[int], int] = {}
        for held, hits in reached.items():
            missed, pool = demand - held, held | demand
            least = min(slots, len(missed)) if admit_all else 0
            for content in map(frozenset, combinations(sorted(pool), min(slots, len(pool)))):
                if len(content & missed) >= least:
                    total = hits + len(demand & held)
                    following[content] = max(following.get(content, 0), total)
        reached = following
    return max(reached.values())


def random_steps(seed: int, experts: int, top_k: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(experts, top_k, replace=False) for _ in range(length)])


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("slots", [1, 2, 3, 4])
def test_no_choice_of_what_stays_hits_more(slots, top_k):
    """Also where a step demands more than the capacity. With every miss admitted it is close to the best, not it."""
    short = 0
    for seed in range(12):
        ids = random_steps(seed, 5, top_k, 9)
        trace, steps = routed(ids[:, None, :], 5, [0], [9]), [frozenset(row) for row in ids.tolist()]
        hits = {
            policy.name: round(
                run(replay_of(trace, policy, engine="untimed", slots_per_layer=slots))["hit_rate"] * ids.size
            )
            for policy in (ORACLE, ADMIT, POLICIES["belady"])
        }
        assert hits["oracle"] == most_hits(steps, slots, False)
        assert hits["belady"] <= hits["oracle"]
        short += most_hits(steps, slots, True) - hits["oracle_admit"]
        assert hits["oracle_admit"] <= most_hits(steps, slots, True)
    assert short <= 4 or top_k > slots


@pytest.mark.parametrize("engine", TIMED)
def test_an_expert_of_the_step_leaves_once_it_has_run(engine):
    """Two slots: AB, AC, BC. C takes A's slot, but only when A has run; ``belady`` may not, and misses C again.

    A copy takes 1000 ns, an expert 100: AB until 2100; A until 100, C's copy until 1100, C until 1200; then two hits.
    """
    trace, hardware = rows([[A, B]], [[A, C]], [[B, C]]), machine(gpu_memory_bytes_per_s=1e10)
    found = timed(trace, ORACLE, hardware, engine=engine, slots_per_layer=2)
    assert found.latency_ns == [2100, 1200, 200]
    assert found.slices("copy") == [(A, 0, 1000), (B, 1000, 2000), (C, 2200, 3200)]
    assert (found.counts["hits"], found.counts["evictions"], found.counts["bypasses"]) == (3, 1, 0)
    belady = timed(trace, "belady", hardware, engine=engine, slots_per_layer=2)
    assert belady.latency_ns == [2100, 1100, 1100]
    assert (belady.counts["hits"], belady.counts["bypasses"]) == (2, 2)


@pytest.mark.parametrize("engine", TIMED)
def test_a_miss_that_is_not_wanted_again_streams_past_and_nothing_waits_for_it(engine):
    """Two slots: AB, CA, AB. C is not demanded again: it goes through staging while A runs."""
    trace, hardware = rows([[A, B]], [[C, A]], [[A, B]]), machine(gpu_memory_bytes_per_s=1e10)
    found = timed(trace, ORACLE, hardware, engine=engine, slots_per_layer=2)
    assert found.latency_ns == [2100, 1100, 200]
    assert (found.counts["hits"], found.counts["evictions"]) == (3, 0)
    admitted = timed(trace, ADMIT, hardware, engine=engine, slots_per_layer=2)
    assert admitted.counts["hits"] == 2  # B has to leave for C


@pytest.mark.parametrize("engine", TIMED)
def test_above_the_capacity_the_soonest_demanded_of_the_step_stay(engine):
    """One slot: ABC, A. Of the step A stays, which other rules, keeping the most recent expert, do not."""
    trace = rows([[A]], [[B]], [[C]], [[A]], prompt=3)
    found = timed(trace, ORACLE, engine=engine, slots_per_layer=1)
    assert (found.counts["hits"], found.counts["overflow_steps"]) == (1, 1)
    assert timed(trace, "belady", engine=engine, slots_per_layer=1).counts["hits"] == 0


@pytest.mark.parametrize("knobs", [{}, {"scope": "global", "start": "warm"}, {"batch_size": 3}, {"reset": "request"}])
def test_both_engines_decide_alike_and_no_demand_only_rule_hits_more(knobs):
    trace = random_trace(5, num_experts=6, top_k=3)
    bound = both(trace, ORACLE, slots_per_layer=3, **knobs)["hit_rate"]
    others = (ADMIT, *(POLICIES[name] for name in ("lru", "score_window", "belady", "belady_admit")))
    assert all(both(trace, policy, slots_per_layer=3, **knobs)["hit_rate"] <= bound for policy in others)


def test_one_access_at_a_time_it_is_belady():
    trace = routed(random_steps(3, 6, 2, 40)[:, None, :], 6, [0], [40])
    knobs = {"slots_per_layer": 3, "semantics": "sequential"}
    for policy, belady in ((ORACLE, "belady"), (ADMIT, "belady_admit")):
        assert run(replay_of(trace, policy, **knobs))["hit_rate"] == run(replay_of(trace, belady, **knobs))["hit_rate"]


def test_recorded_routing_gives_the_figures_of_another_tool(shared_traces):
    """gpt-oss-20b, the first 10 requests, 8 of 32 slots: .805, and .783 where every miss is admitted.

    Another simulator, which retains at the end of a step, found the same; what may not evict its own step hits less.
    """
    trace = gpt_oss.read(shared_traces / "gpt_oss_20b", argparse.Namespace()).select_requests(10)
    sized = replace(trace, geometry=replace(trace.geometry, expert_bytes=(1000,) * trace.num_layers))
    rates = {
        name: run(replay_of(sized, load_policy(name), engine="untimed", slots_per_layer=8))["hit_rate"]
        for name in ("belady", "belady_admit", "oracle", "oracle_admit")
    }
    published = {"belady": 0.796, "belady_admit": 0.770, "oracle": 0.805, "oracle_admit": 0.783}
    assert rates == {name: pytest.approx(rate, abs=5e-4) for name, rate in published.items()}
