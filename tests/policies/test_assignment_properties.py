"""What holds for every assignment rule; that the best split is never beaten; every yaml in a tiny replay."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.splits import MOST_TRIED
from policies.state import CPU, LINK
from sim.assembly.catalogue import load_part, rule_names
from sim.assembly.replay import DeviceSetup, assemble
from tests.policies.hand import decide
from tests.policies.test_assignment_by_hand import missing_state
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, machine, run

NAMES = rule_names("assignment")
PARTS = {name: load_part("assignment", name) for name in NAMES}
PARTS["cheaper_side balanced"] = replace(PARTS["cheaper_side"], balance=True)


def makespan(state, side, order, ready_ns):
    """When the layer's misses are done: copies in series, each then computed on the GPU; CPU experts in series."""
    arrived = 0
    gpu = ready_ns
    cpu = 0
    for i in order:
        if side[i] == CPU:
            cpu += int(state.missing_cpu_ns[i])
        else:
            arrived += int(state.missing_load_ns[i])
            gpu = max(gpu, arrived) + int(state.missing_gpu_ns[i])
    return max(gpu, cpu)


def decided(part, *costs, **more):
    state = missing_state(*costs, **more)
    decide(part, "assign", state)
    return state


def result(part, costs, ready):
    state = decided(part, *costs, ready=[(ready, 1)])
    return makespan(state, state.side, state.order[: state.num_missing].tolist(), ready)


def costs_of(count, equal_copies=False):
    """Drawn (load, cpu, gpu) of ``count`` experts."""
    times = st.lists(st.integers(1, 40), min_size=count, max_size=count)
    one = st.integers(1, 40).map(lambda cost: [cost] * count)
    return st.tuples(one if equal_copies else times, times, one if equal_copies else times)


@settings(max_examples=80, deadline=None)
@given(costs=st.integers(1, 6).flatmap(costs_of), ready=st.integers(0, 60))
def test_best_split_is_never_beaten_by_another_rule(costs, ready):
    best = result(PARTS["best_split"], costs, ready)
    for name, part in PARTS.items():
        assert best <= result(part, costs, ready), name


@settings(max_examples=40, deadline=None)
@given(costs=st.integers(1, 4).flatmap(costs_of), ready=st.integers(0, 60))
def test_best_split_agrees_with_every_split_in_every_order(costs, ready):
    count = len(costs[0])
    state = missing_state(*costs)
    least = min(
        makespan(state, side, order, ready)
        for side in product([LINK, CPU], repeat=count)
        for order in permutations(range(count))
    )
    assert result(PARTS["best_split"], costs, ready) == least


@settings(max_examples=30, deadline=None)
@given(costs=costs_of(MOST_TRIED + 1, equal_copies=True), ready=st.integers(0, 400))
def test_many_misses_of_equal_copies_are_still_split_best(costs, ready):
    state = missing_state(*costs)
    count = len(costs[0])
    on_cpu = (np.arange(2**count)[:, None] >> np.arange(count)) & 1  # [2^n, n] every split
    copies = count - on_cpu.sum(axis=1)
    ends = np.array([makespan(state, [LINK] * m + [CPU] * (count - m), range(m), ready) for m in range(count + 1)])
    least = np.maximum(ends[copies], on_cpu @ np.array(costs[1])).min()
    assert result(PARTS["best_split"], costs, ready) == least


@pytest.mark.parametrize("name", sorted(PARTS))
@settings(max_examples=50, deadline=None)
@given(costs=st.sampled_from([1, 2, 5, 14]).flatmap(costs_of), ready=st.integers(0, 60), seed=st.integers(0, 99))
def test_every_miss_is_served_once_on_one_side(name, costs, ready, seed):
    rng = np.random.default_rng(seed)
    count = len(costs[0])
    state = missing_state(*costs, tokens=rng.integers(1, 9, count), importance=rng.random(count), ready=[(ready, 2)])
    before = {field: getattr(state, field).copy() for field in ("missing", "missing_cpu_ns", "executed_ids", "status")}
    decide(PARTS[name], "assign", state)
    assert sorted(state.order[:count].tolist()) == list(range(count))
    assert set(state.side[:count].tolist()) <= {LINK, CPU}
    for field, array in before.items():
        np.testing.assert_array_equal(getattr(state, field), array)


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_runs(name):
    trace = random_trace(3, num_experts=16, top_k=4, prompts=(5, 4), decodes=(12, 10))
    policy = replace(BARE, name=name, assignment=PARTS[name])
    metrics = run(assemble(trace, DeviceSetup(policy, machine(cpu_ratio=0.4))))
    assert (metrics["cpu_rate"] > 0) == (name != "link_only")
    assert (metrics["loads_per_token"] == 0) == (name in ("cpu_only", "cpu_and_promote", "cheaper_side"))
