"""Misses that the CPU computes while experts come to the GPU in the background; by hand on both timed engines.

A copy takes 1000 ns, an expert on the CPU 500, what a layer costs ahead of its lookup 100. Experts 0 to 3 are there.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.assignment.cpu_and_promote import CpuAndPromote
from policies.assignment.cpu_only import CpuOnly
from policies.assignment.link_only import LinkOnly
from policies.assignment.reuse_split import ReuseSplit
from policies.eviction.frozen_hindsight import FrozenHindsight
from policies.eviction.lru import Lru
from policies.eviction.recent_frequency import RecentFrequency
from policies.prediction.oracle import Oracle
from policies.prefetch.idle_pieces import IdlePieces
from policies.prefetch.promote_frequent import PromoteFrequent
from policies.prefetch.promote_missed import PromoteMissed
from sim.assembly.catalogue import load_policy
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, machine, replay_of, run
from tests.support.timelines import TIMED, rows, timed
from traces.errors import UserError

HARDWARE = machine(host_s_per_layer=100e-9)
WARM = {"slots_per_layer": 4, "start": "warm"}
ON_CPU = replace(BARE, name="on_cpu", eviction=Lru(), assignment=CpuAndPromote())
ONE, TWO = replace(ON_CPU, prefetch=PromoteMissed(1)), replace(ON_CPU, prefetch=PromoteMissed(2))


@pytest.mark.parametrize("engine", TIMED)
def test_nobody_waits_for_a_promotion(engine):
    """Copied from 600 to 1600; the CPU computes it from 100, 700 and 1300 on, and at 1900 it is there."""
    found = timed(rows(*[[[5]]] * 4), ONE, HARDWARE, engine=engine, **WARM)
    assert found.latency_ns == [600, 600, 600, 100]
    assert found.slices("prefetch") == [(5, 600, 1600)]
    assert found.slices("cpu") == [(5, 100, 600), (5, 700, 1200), (5, 1300, 1800)]
    assert {name: found.counts[name] for name in ("cpu", "hits", "prefetch_copies", "prefetch_late", "evictions")} == {
        "cpu": 3, "hits": 1, "prefetch_copies": 1, "prefetch_late": 1, "evictions": 1,
    }  # fmt: skip
    assert found.replay.device.residents()[0].tolist() == [False, True, True, True, False, True, False, False]


@pytest.mark.parametrize("engine", TIMED)
def test_what_has_not_begun_when_its_layer_comes_is_cancelled(engine):
    """5 and 6 on the CPU until 1100; 5 is copied until 2100; 6 waits, until the lookup at 1200."""
    found = timed(rows([[5, 6]], [[1, 2]], [[5, 1]]), TWO, HARDWARE, engine=engine, **WARM)
    assert found.latency_ns == [1100, 100, 600]  # at 1300 the copy of 5 is on its way still: once more on the CPU
    assert (found.counts["prefetch_copies"], found.counts["prefetch_cancelled"]) == (1, 1)


GATE = replace(ON_CPU, prefetch=IdlePieces(pieces=4))


@pytest.mark.parametrize("engine", TIMED)
def test_a_promotion_chosen_at_the_gate_begins_beside_its_own_layer(engine):
    """Four pieces of 250 from 100 on; the second lookup, at 700, does not wait for it, and nothing gives it up."""
    found = timed(rows(*[[[5]]] * 4), GATE, HARDWARE, engine=engine, **WARM)
    assert found.latency_ns == [600, 600, 100, 100]
    assert found.slices("prefetch") == [(5, 100 + 250 * i, 350 + 250 * i) for i in range(4)]
    assert found.slices("cpu") == [(5, 100, 600), (5, 700, 1200)]
    assert (found.counts["prefetch_late"], found.counts["prefetch_copies"], found.counts["evictions"]) == (1, 1, 1)


@pytest.mark.parametrize("engine", TIMED)
def test_a_promotion_waits_for_what_is_foreseen_and_then_goes_on(engine):
    """Layer 0 foresees 6 of layer 1, 5 comes after it; layer 1 has 6 since 1100, so that its step misses it at 700."""
    both = replace(GATE, prediction=Oracle(1), prefetch=IdlePieces(pieces=1))
    found = timed(rows([[5], [6]], [[1], [1]], [[5], [6]]), both, HARDWARE, engine=engine, **WARM)
    assert found.slices("prefetch")[:2] == [(8 + 6, 100, 1100), (5, 1100, 2100)]


@pytest.mark.parametrize("engine", TIMED)
def test_an_empty_cache_fills_though_the_cpu_is_faster_than_any_copy(engine):
    policy = replace(GATE, eviction=Lru(), assignment=ReuseSplit())
    found = timed(rows(*[[[1, 2]]] * 12), policy, HARDWARE, engine=engine, slots_per_layer=2)
    assert found.latency_ns[0] > found.latency_ns[-1] == 100
    assert found.replay.device.residents()[0].tolist() == [False, True, True] + [False] * 5


@pytest.mark.parametrize("engine", TIMED)
def test_a_hit_runs_beside_a_miss_or_after_it(engine):
    """Expert 1 takes 300 ns on the GPU, expert 5 its 500 on the CPU."""
    slow = machine(host_s_per_layer=100e-9, gpu_memory_bytes_per_s=1000 / 300e-9)
    for overlaps, latency_ns in ((True, 600), (False, 900)):
        hardware = slow.with_figures({"cpu_overlaps_gpu": overlaps})
        assert timed(rows([[1, 5]]), ONE, hardware, engine=engine, **WARM).latency_ns == [latency_ns]


@pytest.mark.parametrize("engine", TIMED)
def test_promotions_go_on_while_other_layers_run(engine):
    """Layer 0 misses 5, layer 1 hits; the copy of 5 runs beside layer 1 and beside the next step's layers."""
    found = timed(rows(*[[[5], [1]]] * 6), ONE, HARDWARE, engine=engine, **WARM)
    assert found.slices("prefetch") == [(5, 600, 1600)]
    assert found.latency_ns == [700, 700, 700, 200, 200, 200]  # lookups of layer 0 at 100, 800, 1500, 2200
    assert found.counts["hits"] == 6 + 3


@pytest.mark.parametrize("engine", TIMED)
def test_a_promoted_expert_that_leaves_unused_was_wasted(engine):
    """One slot: 5 comes, 6 takes its place before it is asked for again."""
    alone = {"slots_per_layer": 1, "start": "warm"}
    found = timed(rows([[5]], [[6]], [[6]], [[6]], [[6]], [[6]], [[6]]), ONE, HARDWARE, engine=engine, **alone)
    assert found.slices("prefetch") == [(5, 600, 1600), (6, 1800, 2800)]
    assert (found.counts["prefetch_wasted"], found.counts["prefetch_late"]) == (1, 1)


@pytest.mark.parametrize("engine", TIMED)
def test_large_steps_copy_their_misses(engine):
    large = replace(ONE, assignment=CpuAndPromote(copy_from_tokens=2))
    found = timed(rows([[5]], [[5]], [[5]], prompt=2), large, HARDWARE, engine=engine, **WARM)
    assert found.latency_ns == [1100, 100]
    assert (found.counts["demand_copies"], found.counts["prefetch_copies"], found.counts["cpu"]) == (1, 0, 0)


def hits_of(policy, trace, **knobs):
    replay = replay_of(trace, policy, machine(), engine="untimed", **knobs)
    return run(replay)["hit_rate"], replay.device.residents()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    slots=st.integers(2, 8),
    batch=st.integers(1, 3),
    scope=st.sampled_from(["layer", "global"]),
)
def test_promoting_every_miss_at_once_is_lru(seed, slots, batch, scope):
    """Where copies take no time and every step fits, the cache holds what LRU on demand holds."""
    trace = random_trace(seed, 3, 8, 2, prompts=(0, 0, 0), decodes=(9, 7, 8))
    knobs = {"slots_per_layer": max(slots, min(8, 2 * batch)), "batch_size": batch, "scope": scope}
    promoted, lru = hits_of(replace(ON_CPU, prefetch=PromoteMissed(8)), trace, **knobs), hits_of("lru", trace, **knobs)
    assert promoted[0] == lru[0]
    np.testing.assert_array_equal(promoted[1], lru[1])


def test_without_promotions_nothing_ever_changes():
    trace = random_trace(3, 3, 8, 2, prompts=(0,), decodes=(40,))
    found = [hits_of(replace(ON_CPU, assignment=kind()), trace, **WARM) for kind in (CpuAndPromote, CpuOnly)]
    assert found[0][0] == found[1][0]
    assert (found[0][1].sum(axis=1) == 4).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prediction": Oracle(1)}, "PromoteMissed brings experts for later steps and asks no prediction"),
        ({"assignment": LinkOnly()}, "PromoteMissed brings what the CPU has computed, and LinkOnly gives it nothing"),
        ({"eviction": FrozenHindsight()}, "FrozenHindsight never changes what is resident"),
    ],
)
def test_what_contradicts_a_promotion_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        replay_of(rows([[5]]), replace(ONE, **changes), HARDWARE)


def test_by_frequency_only_what_is_used_more_than_a_resident_comes():
    """One slot a layer holds 0, which half of the tokens use: 5 has to overtake it."""
    frequent = replace(
        ON_CPU, eviction=RecentFrequency(window=4), prefetch=PromoteFrequent(window=4, limit=1),
        assignment=CpuAndPromote(),
    )  # fmt: skip
    trace = rows([[0]], [[5]], [[0]], [[5]], [[5]], [[5]])
    replay = replay_of(trace, frequent, machine(), engine="untimed", slots_per_layer=1, start="warm")
    held = []
    for result in replay.blocks():
        held += result.counts[:, 0].tolist()
    assert held == [1, 0, 1, 0, 0, 1]  # after five tokens the last four are 5 0 5 5


@pytest.mark.parametrize("name", ["llama_cpp_moe_cache", "llama_cpp_hot_cache", "freetoken"])
@pytest.mark.parametrize("reset", ["never", "request"])
def test_the_named_policies_replay_alike_on_both_engines(name, reset):
    trace = random_trace(5, 3, 8, 2, prompts=(40, 3), decodes=(20, 20))
    found = [
        run(replay_of(trace, load_policy(name), HARDWARE, engine=engine, slots_per_layer=3, reset=reset))
        for engine in TIMED
    ]
    assert found[0] == found[1] and 0 < found[0]["hit_rate"] < 1
