"""Every eviction yaml through the compiled core: it runs, keeps to the capacity and repeats itself."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from policies.base import Eviction
from policies.eviction.belady import Belady
from policies.eviction.latency_oracle import LatencyOracle
from policies.prefetch.none import NoPrefetch
from policies.state import ABSENT
from sim.assembly.catalogue import load_part, rule_names
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig
from sim.engine.decision.device import decides
from sim.machine.capacity import CacheConfig
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine, replay_of, run
from traces.errors import UserError
from traces.format.ranks import use_counts

NAMES = rule_names("eviction")
LEARNS_FROM = random_trace(7)


def replay_with(eviction, trace, base=BARE, seed=0, **knobs):
    policy = replace(base, name="tested", eviction=eviction)
    cache, config = CacheConfig(**knobs), RunConfig(seed=seed, batch_size=2)
    return assemble(trace, DeviceSetup(policy, machine(), cache, config), others=LEARNS_FROM)


def checked_run(replay):
    """Run to the end, with a look at the occupancy after every copy that starts."""
    device, pools = replay.device, replay.pools
    start = device.next_copy

    def checked():
        result = start()
        held = (device.arrays["status"] != ABSENT).sum(axis=1) * pools.size
        assert (np.bincount(pools.pool_of, weights=held, minlength=pools.capacity.size) <= pools.capacity).all()
        return result

    device.next_copy = checked
    return run(replay)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_runs_and_never_holds_more_than_the_capacity(name):
    trace = random_trace(3, prompts=(4, 0, 2), decodes=(9, 6, 5), expert_bytes=[1000, 600, 1400])
    for scope in ("layer", "global"):
        for start in ("cold", "warm"):
            knobs = {"slots_per_layer": 3, "scope": scope, "start": start}
            metrics = checked_run(replay_with(load_part("eviction", name), trace, **knobs))
            assert 0.0 < metrics["hit_rate"] < 1.0
            assert metrics == run(replay_with(load_part("eviction", name), trace, **knobs))


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_runs_beside_prefetch_substitution_and_cpu(name):
    trace = random_trace(5, prompts=(4, 0, 2), decodes=(9, 6, 5))
    for base in ("prefetch", "importance"):
        policy = POLICIES[base]
        if load_part("eviction", name).static:  # nothing can be prefetched past a placement that never changes
            with pytest.raises(UserError, match="nothing can be prefetched"):
                replay_with(load_part("eviction", name), trace, policy, slots_per_layer=3)
            policy = replace(policy, prefetch=NoPrefetch())
        metrics = checked_run(replay_with(load_part("eviction", name), trace, policy, slots_per_layer=3))
        assert 0.0 < metrics["cache_ratio"] <= 1.0


ADMITTING = [n for n in NAMES if not decides(load_part("eviction", n), Eviction, "bypass")]


@pytest.mark.parametrize("name", [n for n in ADMITTING if n not in ("belady_admit", "oracle", "oracle_admit")])
def test_no_rule_that_admits_every_miss_beats_belady_admit(name):
    for seed in range(5):
        trace = random_trace(seed, prompts=(0, 0), decodes=(30, 25))
        best = run(replay_of(trace, "belady_admit", slots_per_layer=3))["hit_rate"]
        policy = replace(BARE, eviction=load_part("eviction", name))
        setup = DeviceSetup(policy, machine(), CacheConfig(slots_per_layer=3))
        assert run(assemble(trace, setup, others=LEARNS_FROM))["hit_rate"] <= best


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_latency_oracle_decides_as_belady_where_all_copies_cost_the_same(scope):
    for seed in range(10):
        trace = random_trace(seed, prompts=(4, 3), decodes=(20, 25))
        for slots in (2, 3, 5):
            runs = [
                run(replay_of(trace, replace(BARE, eviction=eviction), slots_per_layer=slots, scope=scope))
                for eviction in (Belady(), LatencyOracle())
            ]
            assert runs[0] == runs[1]


def test_the_latency_oracle_keeps_what_is_dear_to_copy():
    """One pool, layer 1's experts four times as dear: less copy time is waited for than under Belady."""
    waited = {Belady: 0.0, LatencyOracle: 0.0}
    for seed in range(10):
        trace = random_trace(seed, num_layers=2, prompts=(0,), decodes=(60,), skew=0.3)
        hardware = machine(link_latency_s=1e-12)
        for kind in waited:
            replay = replay_of(trace, replace(BARE, eviction=kind()), hardware, slots_per_layer=3, scope="global")
            replay.device.arrays["load_ns"][:] = [1000, 4000]
            replay.engine.copies_ns[0][0] = [1000, 4000]
            waited[kind] += run(replay)["stall_s_per_token.link"]
    assert waited[LatencyOracle] < waited[Belady]


def test_another_seed_gives_random_other_victims_and_the_same_seed_the_same():
    trace = random_trace(1, prompts=(0,), decodes=(60,))
    rates = [
        run(replay_with(load_part("eviction", "random"), trace, seed=seed, slots_per_layer=3))["hit_rate"]
        for seed in range(5)
    ]
    assert len(set(rates)) > 1
    assert rates[0] == run(replay_with(load_part("eviction", "random"), trace, seed=0, slots_per_layer=3))["hit_rate"]


def test_frozen_popularity_starts_with_the_most_popular_experts_and_keeps_them():
    trace = random_trace(4, prompts=(0,), decodes=(40,))
    replay = replay_with(load_part("eviction", "frozen_popularity"), trace, slots_per_layer=3, start="warm")
    counts = load_part("eviction", "frozen_popularity").fit(LEARNS_FROM).reshape(trace.num_layers, trace.num_experts)
    expected = np.zeros(counts.shape, bool)
    for layer, row in enumerate(counts):
        expected[layer, np.argsort(-row, kind="stable")[:3]] = True
    run(replay)
    assert (replay.device.residents() == expected).all()


def test_frozen_layers_keep_the_last_layers_whole():
    trace = random_trace(4, prompts=(3,), decodes=(10,))
    replay = replay_with(
        load_part("eviction", "frozen_layers"), trace, slots_per_layer=3, scope="global"
    )  # 9 slots for 3 layers of 8
    run(replay)
    assert replay.device.residents().sum(axis=1).tolist() == [0, 1, 8]


def held_at_the_end(rule, trace, **knobs):
    replay = replay_with(rule, trace, **knobs)
    run(replay)
    return replay.device.residents()


def test_frozen_hindsight_is_the_best_placement_of_single_tokens():
    """No other set of as many experts per layer is demanded more often: all of them are tried."""
    trace = random_trace(4, num_layers=1, num_experts=6, prompts=(0,), decodes=(40,))
    uses = np.bincount(trace.topk_ids.ravel(), minlength=6)
    best = max(uses[list(chosen)].sum() for chosen in combinations(range(6), 3))
    replay = replay_with(load_part("eviction", "frozen_hindsight"), trace, slots_per_layer=3)
    assert run(replay)["hit_rate"] == best / uses.sum()


def test_pinned_experts_stay_and_the_rest_is_lru():
    trace = random_trace(4, prompts=(0,), decodes=(60,))
    hottest = np.argmax(use_counts(LEARNS_FROM.topk_ids, False, 8), axis=1)
    rule = load_part("eviction", "pinned_lru")
    assert held_at_the_end(rule, trace, slots_per_layer=5, start="warm")[range(3), hottest].all()
    plain = held_at_the_end(load_part("eviction", "lru"), trace, slots_per_layer=3)
    unpinned = held_at_the_end(replace(rule, pinned=0), trace, slots_per_layer=3)
    np.testing.assert_array_equal(plain, unpinned)


def test_recent_frequency_over_all_tokens_is_lifetime_lfu():
    trace = random_trace(4, prompts=(3,), decodes=(60,))
    found = [
        held_at_the_end(load_part("eviction", name), trace, slots_per_layer=3)
        for name in ("recent_frequency", "lfu_lifetime")
    ]
    np.testing.assert_array_equal(*found)


def test_a_profile_start_holds_what_others_used_most():
    trace = random_trace(4, prompts=(0,), decodes=(1,))
    replay = replay_with(load_part("eviction", "lru"), trace, slots_per_layer=3, start="profile")
    counts = use_counts(LEARNS_FROM.topk_ids, False, 8)
    expected = np.zeros(counts.shape, bool)
    np.put_along_axis(expected, np.argsort(-counts, axis=1, kind="stable")[:, :3], True, axis=1)
    assert (replay.device.residents() == expected).all()
