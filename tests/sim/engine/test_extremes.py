"""Shapes and policies at their limits: both engines agree, everything adds up, and what can be worked out is exact."""

from dataclasses import replace

import numpy as np
import pytest

from policies.assignment.cpu_only import CpuOnly
from policies.eviction.frozen_popularity import FrozenPopularity
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from tests.sim.engine.test_engines_agree import assert_sound, outcome
from tests.support.fixed_rules import DropAll, FetchAll, Silent
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine, replay_of, run
from traces.errors import UserError
from traces.format.validation import validate

BUSY = machine(host_s_per_layer=3e-7, gpu_memory_bytes_per_s=3e9, link_call_s=2e-8, sync_s=1e-8, staging_slots=1)
EVERYTHING = replace(BARE, name="everything", prediction=Silent(), prefetch=FetchAll())
DROPS = replace(BARE, name="drops", substitution=DropAll())
ON_CPU = replace(BARE, name="on_cpu", assignment=CpuOnly())
POLICY = POLICIES | {policy.name: policy for policy in (EVERYTHING, DROPS, ON_CPU)}
SHAPES = {
    "one expert, one layer": {"num_layers": 1, "num_experts": 1, "top_k": 1},
    "all experts routed": {"num_experts": 8, "top_k": 8},
    "requests of one token": {"prompts": (0, 0, 0), "decodes": (1, 1, 1)},
    "prompts only": {"prompts": (3, 1), "decodes": (0, 0)},
    "no prompts": {"prompts": (0, 0), "decodes": (3, 2)},
}


def both(trace, policy, hardware=BUSY, **knobs):
    """Outcome of a replay that both engines agree on; checks that it is sound."""
    found = []
    for engine in ("simpy", "compiled"):
        replay = replay_of(trace, policy, hardware, engine=engine, timeline=True, **knobs)
        found.append(outcome(replay))
        assert_sound(found[-1], replay)
    for one, other in zip(*found, strict=True):
        np.testing.assert_equal(one, other)
    return found[0][2]


@pytest.mark.parametrize("policy", sorted(POLICY))
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_shapes(shape, policy):
    trace = random_trace(3, **SHAPES[shape])
    for slots in {1, trace.num_experts}:
        both(trace, POLICY[policy], slots_per_layer=slots)
        both(trace, POLICY[policy], slots_per_layer=slots, reset="request", start="warm", scope="global")
        run(replay_of(trace, POLICY[policy], engine="untimed", slots_per_layer=slots))


@pytest.mark.parametrize("policy", ["lru", "importance", "belady", "everything", "on_cpu", "on_demand"])
def test_a_batch_of_256_that_routes_to_all_experts(policy):
    trace = random_trace(1, num_layers=2, top_k=8, prompts=(1,) * 256, decodes=(2,) * 256)
    metrics = both(trace, POLICY[policy], batch_size=256, slots_per_layer=3)
    assert metrics["num_tokens"] == 768


@pytest.mark.parametrize("policy", sorted(POLICY))
def test_a_pool_far_larger_than_the_model_misses_every_expert_once(policy):
    trace = random_trace(1, decodes=(40, 40))
    metrics = both(trace, POLICY[policy], scope="global", bytes=10**15)
    if policy in ("lru", "belady", "belady_admit", "score_window"):
        used = sum(len(np.unique(trace.topk_ids[:, layer])) for layer in range(3))
        assert metrics["loads_per_token"] * trace.num_tokens == pytest.approx(used)


def test_dropping_everything_takes_no_expert_and_no_copy():
    metrics = both(random_trace(1), DROPS, machine(), slots_per_layer=2)
    assert metrics["drop_rate"] == 1.0
    assert metrics["lost_gate_mass"] == pytest.approx(1.0)
    assert metrics["simulated_s"] == metrics["bytes_per_token"] == 0.0
    assert metrics["cache_ratio"] is None


def test_the_cpu_computes_everything_one_after_the_other():
    trace = random_trace(1, prompts=(0,), decodes=(7,))
    metrics = both(trace, ON_CPU, machine(), slots_per_layer=2, time={"cpu_transfer": False})
    assert metrics["cpu_rate"] == 1.0
    assert metrics["tpot_s.mean"] == pytest.approx(3 * 2 * 500e-9)
    assert metrics["cpu_utilisation"] == 1.0


@pytest.mark.parametrize("bytes_per_s", [1e-2, 1e300])
@pytest.mark.parametrize("policy", ["lru", "everything", "importance"])
def test_links_of_any_speed(policy, bytes_per_s):
    metrics = both(random_trace(1), POLICY[policy], machine(link_bytes_per_s=bytes_per_s), slots_per_layer=3)
    if policy == "lru":
        decode_bytes = metrics["decode.bytes_per_token"]
        assert metrics["time_s_per_token.link"] == pytest.approx(decode_bytes / bytes_per_s, abs=1e-9)


@pytest.mark.parametrize("engine", ["simpy", "compiled", "untimed"])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_static_placement_never_changes_whatever_is_demanded(engine, slots):
    """A prompt of 20 tokens demands more than any capacity here; every miss streams."""
    trace, others = random_trace(1, prompts=(20,), decodes=(6,)), random_trace(2)
    policy = replace(BARE, name="static", eviction=FrozenPopularity())
    cache, knobs = CacheConfig(slots_per_layer=slots), RunConfig(engine=engine)
    replay = assemble(trace, DeviceSetup(policy, BUSY, cache, knobs), others=others)
    before = replay.device.residents().copy()
    metrics = run(replay)
    assert before.sum() == 3 * slots
    np.testing.assert_array_equal(replay.device.residents(), before)
    misses = (1 - metrics["hit_rate"]) * metrics["demand_to_capacity"] * slots * 3 * (1 + 6)
    assert metrics["loads_per_token"] * trace.num_tokens == pytest.approx(misses)


@pytest.mark.parametrize("policy", ["importance", "substitute", "score_window", "prefetch", "cpu"])
def test_scores_that_are_not_numbers_do_not_part_the_engines(policy):
    trace = random_trace(1)
    trace.router_logits.values[::3, :, ::2] = np.nan
    trace.lookahead_before.values[::2] = np.nan
    for engine in ("simpy", "compiled"):
        replay = replay_of(trace, policy, BUSY, engine=engine, slots_per_layer=3)
        found = run(replay)
        if engine == "simpy":
            expected = found
    np.testing.assert_equal(found, expected)


def test_experts_without_bytes_are_refused():
    with pytest.raises(UserError, match="at least 1 slot is needed, and one expert of layer 1 takes 0 bytes"):
        replay_of(random_trace(1, expert_bytes=[1000, 0, 1000]), "lru", slots_per_layer=2)


def test_experts_of_more_bytes_than_any_clock_counts_are_refused():
    with pytest.raises(UserError):
        replay_of(random_trace(1, expert_bytes=2**60), "lru", slots_per_layer=1)


@pytest.mark.parametrize("shape", [{"num_experts": 1000, "top_k": 4}, {"num_layers": 128}, {"top_k": 1}])
def test_many_experts_many_layers_and_one_expert_per_token(shape):
    both(random_trace(1, **shape), "lru", slots_per_layer=4)


def test_a_batch_far_above_the_requests_is_all_of_them():
    trace = random_trace(1)
    large, exact = (both(trace, "lru", batch_size=size, slots_per_layer=2) for size in (2**40, 2))
    assert large == exact


def test_a_clock_of_days_and_one_beyond_64_bits():
    metrics = both(random_trace(1), "lru", machine(link_bytes_per_s=1e-2), slots_per_layer=1)
    assert metrics["simulated_s"] > 5 * 86400
    with pytest.raises(UserError):
        run(replay_of(random_trace(1), "lru", machine(link_bytes_per_s=1e-12), slots_per_layer=1))


@pytest.mark.parametrize("bytes_per_s", [0, float("inf")])
def test_links_without_bandwidth_and_without_end_are_refused(bytes_per_s):
    with pytest.raises(UserError, match="link_bytes_per_s"):
        machine(link_bytes_per_s=bytes_per_s)


def test_empty_requests_are_refused():
    trace = random_trace(1)
    with pytest.raises(UserError):
        validate(replace(trace, request_offsets=np.array([0, 0, trace.num_tokens])))
