"""What must hold for every replay, on drawn traces, policies, capacities and machines."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.state import ABSENT, RESIDENT
from sim.metrics.step_table import COLUMNS, StepTable
from tests.support.random_traces import random_trace
from tests.support.reference import reference_replay
from tests.support.replays import DEMAND_ONLY, POLICIES, machine, replay_of, run

MACHINES = {
    "instant": machine(),
    "busy": machine(
        host_s_per_layer=3e-7, launch_s=1e-8, kernels_per_expert=3, kernels_per_layer=7, readback_s=5e-8, sync_s=9e-8,
        gpu_memory_bytes_per_s=7e9, link_call_s=2e-8, staging_slots=1,
    ),
    "slow_gpu": machine(gpu_memory_bytes_per_s=1.3e9, host_s_per_layer=2e-6, staging_slots=3),
}  # fmt: skip
FEW = settings(max_examples=40, deadline=None)

replays = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "policy": st.sampled_from(sorted(POLICIES)),
        "machine": st.sampled_from(sorted(MACHINES)),
        "slots": st.integers(1, 8),
        "scope": st.sampled_from(["layer", "global"]),
        "start": st.sampled_from(["cold", "warm"]),
        "batch_size": st.integers(1, 3),
        "sizes": st.sampled_from([1000, [1000, 600, 1400]]),
    }
)


def drawn(case):
    trace = random_trace(case["seed"], prompts=(4, 0, 2), decodes=(5, 6, 0), expert_bytes=case["sizes"])
    knobs = {"slots_per_layer": case["slots"], "scope": case["scope"], "start": case["start"]}
    return replay_of(trace, case["policy"], MACHINES[case["machine"]], batch_size=case["batch_size"], **knobs)


def table_of(replay):
    table = StepTable(replay)
    table.run()
    return dict(zip(COLUMNS, table.array().T, strict=True))


@FEW
@given(replays)
def test_parts_of_every_step_sum_to_its_latency(case):
    table = table_of(drawn(case))
    parts = sum(table[name] for name in COLUMNS if name.endswith("_ns") and name != "latency_ns")
    assert (parts == table["latency_ns"]).all()
    assert (table["latency_ns"] >= 0).all()


@FEW
@given(replays)
def test_outcomes_sum_to_demands(case):
    table = table_of(drawn(case))
    outcomes = sum(table[name] for name in ("hits", "late", "fetches", "cpu", "substitutes", "drops", "degrades"))
    assert (outcomes == table["demanded"]).all()


@FEW
@given(replays)
def test_residents_and_copies_never_exceed_the_capacity(case):
    replay = drawn(case)
    device, pools = replay.device, replay.pools
    place = device.next_copy

    def checked():
        result = place()
        held = (device.arrays["status"] != ABSENT).sum(axis=1) * pools.size
        used = np.bincount(pools.pool_of, weights=held, minlength=pools.capacity.size)
        assert (used <= pools.capacity).all()
        assert (used == device.cache_arrays["used"]).all()
        assert 0 <= int((device.cache_arrays["staged"]).sum()) <= replay.runtime.staging_slots
        return result

    device.next_copy = checked
    run(replay)


@FEW
@given(replays)
def test_every_prefetch_ends_once(case):
    table = table_of(drawn(case))
    ended = sum(int(table[f"prefetch_{name}"].sum()) for name in ("used", "late", "wasted"))
    assert int(table["prefetch_copies"].sum()) - 1 <= ended <= int(table["prefetch_copies"].sum())


@FEW
@given(replays)
def test_the_same_replay_gives_the_same_numbers(case):
    assert run(drawn(case)) == run(drawn(case))


@FEW
@given(replays)
def test_the_clock_never_goes_back(case):
    replay = drawn(case)
    if not replay.timed:
        return
    engine, times = replay.engine, [0]
    for result in replay.blocks():
        times.append(engine.now_ns)
        assert times[-1] - times[-2] == result.latency_ns.sum()
        assert int(engine.env.now) == engine.now_ns
    assert all(a <= b for a, b in pairwise(times))


@FEW
@given(
    st.integers(0, 10_000),
    st.integers(2, 8),
    st.sampled_from(DEMAND_ONLY),
    st.integers(1, 3),
    st.sampled_from(["cold", "warm"]),
)
def test_no_demand_only_rule_beats_belady(seed, slots, policy, top_k, start):
    trace = random_trace(seed, top_k=top_k, prompts=(6, 5), decodes=(20, 25))
    knobs = {"slots_per_layer": slots, "start": start}
    best = run(replay_of(trace, "belady_admit", **knobs))["hit_rate"]
    assert run(replay_of(trace, policy, **knobs))["hit_rate"] <= best


@FEW
@given(st.integers(0, 10_000), st.integers(2, 8), st.sampled_from(["cold", "warm"]))
def test_bypassing_never_costs_belady_hits(seed, slots, start):
    trace = random_trace(seed, prompts=(0,), decodes=(40,))
    knobs = {"slots_per_layer": slots, "start": start}
    assert (
        run(replay_of(trace, "belady", **knobs))["hit_rate"]
        >= run(replay_of(trace, "belady_admit", **knobs))["hit_rate"]
    )


@pytest.mark.slow
@FEW
@given(st.integers(0, 10_000), st.sampled_from(["layer", "global"]))
def test_lru_misses_never_rise_with_slots(seed, scope):
    trace = random_trace(seed, prompts=(6, 5), decodes=(20, 25))
    rates = [run(replay_of(trace, "lru", slots_per_layer=slots, scope=scope))["hit_rate"] for slots in range(1, 9)]
    assert all(a <= b for a, b in pairwise(rates))


@FEW
@given(st.integers(0, 10_000), st.sampled_from(sorted(MACHINES)))
def test_all_resident_never_stalls_and_is_fastest(seed, name):
    trace = random_trace(seed)
    bound = run(replay_of(trace, "all_resident", MACHINES[name]))
    assert bound["hit_rate"] == 1.0
    assert bound["stall_s_per_token.link"] == 0.0
    for policy in ("lru", "on_demand", "belady"):
        assert run(replay_of(trace, policy, MACHINES[name], slots_per_layer=3))["tpot_s.mean"] >= bound["tpot_s.mean"]


@FEW
@given(st.integers(0, 10_000), st.sampled_from(["lru", "belady", "belady_admit", "on_demand"]), st.integers(2, 8))
def test_demand_only_decisions_do_not_depend_on_the_clock(seed, policy, slots):
    """The same hits on machines of any speed."""
    trace = random_trace(seed)
    rates = {run(replay_of(trace, policy, m, slots_per_layer=slots))["hit_rate"] for m in MACHINES.values()}
    assert len(rates) == 1


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["lru", "belady_admit"]),
    st.integers(1, 8),
    st.sampled_from(["layer", "global"]),
    st.integers(1, 3),
    st.sampled_from([1000, [1000, 600, 1400]]),
)
def test_decisions_equal_an_independent_reference(seed, policy, slots, scope, batch_size, sizes):
    trace = random_trace(seed, prompts=(4, 0, 2), decodes=(9, 6, 3), expert_bytes=sizes)
    table = table_of(replay_of(trace, policy, slots_per_layer=slots, scope=scope, batch_size=batch_size))
    expected = reference_replay(trace, policy, slots, scope, batch_size)
    assert tuple(int(table[k].sum()) for k in ("hits", "demanded", "demand_copies", "copied_bytes")) == expected


@FEW
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_substitution_executes_only_residents_or_top_scores_within_the_band(seed, alpha):
    from dataclasses import replace

    from policies.substitution.score_band import ScoreBand

    trace = random_trace(seed, num_experts=12, top_k=3)
    policy = replace(POLICIES["substitute"], substitution=ScoreBand(alpha=alpha))
    replay = replay_of(trace, policy, slots_per_layer=4, batch_size=2)
    device = replay.device
    begin = device.begin

    def checked(layer, *late):
        resident = device.residents()[layer]
        plan = begin(layer, *late)
        ids, _, gate_scores, _, _ = device.step
        for token in range(ids.shape[0]):
            routed, executed = ids[token, layer], device.arrays["executed_ids"][token]
            scores = gate_scores[token, layer]
            edge = np.delete(scores, routed).max()
            assert len(set(executed.tolist())) == executed.size
            for before, after in zip(routed, executed, strict=True):
                if before != after:
                    assert not resident[before]
                    assert scores[before] < (1 + alpha) * edge
                    assert (1 - alpha) * edge <= scores[after] <= edge
        return plan

    device.begin = checked
    metrics = run(replay)
    assert alpha > 0 or metrics["substitution_rate"] == 0.0


def test_warm_start_fills_every_pool():
    replay = replay_of(random_trace(0), "lru", slots_per_layer=3, start="warm")
    assert (replay.device.arrays["status"] == RESIDENT).sum(axis=1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_batches_shrink_as_requests_end(policy):
    trace = random_trace(5, prompts=(2, 3), decodes=(7, 3))
    table = table_of(replay_of(trace, policy, batch_size=2, slots_per_layer=3))
    assert table["num_tokens"].tolist() == [2, 3, 2, 2, 2, 1, 1, 1, 1]
