"""What holds for every substitution rule, on drawn states and in a tiny replay of every yaml."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.state import DECODE, DROPPED, PREFILL, RESIDENT, plain_state
from sim.assembly.catalogue import load_part, rule_names
from sim.assembly.replay import DeviceSetup, assemble
from sim.machine.capacity import CacheConfig
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, machine, run
from traces.format.trace import Geometry

NAMES = rule_names("substitution")
PARTS = {name: load_part("substitution", name) for name in NAMES}
DROPS = {"adaptive_top_k", "bonus_and_drop", "mixed_precision", "skip"}
MAY_MOVE_RESIDENTS = {"adaptive_top_k", "bonus_and_drop"}  # by their own rule
MAY_USE_BATCH = {"score_band", "smoe_code"}  # another token's top-score expert is fetched anyway
EXPERTS, RANKS, LAYERS = 9, 3, 2


def drawn_state(seed, tokens, phase, share):
    """A layer step of random scores, routed by their top k, with about ``share`` of the experts resident."""
    rng = np.random.default_rng(seed)
    state = plain_state(LAYERS, EXPERTS, RANKS, tokens, seed)
    state.layer, state.now, state.phase, state.num_tokens, state.has_scores = 1, 7, phase, tokens, 1
    scores = rng.dirichlet(np.ones(EXPERTS) * rng.uniform(0.3, 3.0), tokens).astype(np.float32)
    state.scores[:] = scores
    state.ids[:] = np.argsort(-scores, axis=-1, kind="stable")[:, :RANKS]
    state.weights[:] = np.take_along_axis(scores, state.ids, -1)
    state.executed_ids[:] = state.ids
    state.status[:] = rng.choice(
        [0, 1, RESIDENT, 3], (LAYERS, EXPERTS), p=[(1 - share) / 3] * 2 + [share, (1 - share) / 3]
    )
    demand = np.unique(state.ids)
    state.num_demand = len(demand)
    state.demand[: len(demand)] = demand
    return state, rng


def memory_of(part, rng):
    if "expert_similarity" in part.all_needs():
        return part.initial_memory(None, rng.uniform(-1, 1, (LAYERS, EXPERTS, EXPERTS)), None)
    if "fit" in part.all_needs():
        return rng.integers(0, 5, part.memory_size(LAYERS, EXPERTS, RANKS)).astype(np.float64)
    return part.initial_memory(Geometry("drawn", LAYERS, EXPERTS, RANKS), None, None)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 4),
    phase=st.sampled_from([PREFILL, DECODE, DECODE]),
    share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
)
def test_what_is_executed_is_valid_distinct_and_no_worse_placed(name, seed, tokens, phase, share):
    part = PARTS[name]
    state, rng = drawn_state(seed, tokens, phase, share)
    read_only = {field: getattr(state, field).copy() for field in ("ids", "scores", "weights", "status", "priority")}
    part.substitute(state, memory_of(part, rng))
    for field, before in read_only.items():
        np.testing.assert_array_equal(getattr(state, field), before)
    resident = state.status[1] == RESIDENT
    for token in range(tokens):
        ids, executed = state.ids[token].tolist(), state.executed_ids[token].tolist()
        kept = [expert for expert in executed if expert != DROPPED]
        assert len(set(kept)) == len(kept) and all(0 <= expert < EXPERTS for expert in kept)
        assert name in DROPS or DROPPED not in executed
        assert kept  # no token is left without any expert
        for routed, chosen in zip(ids, executed, strict=True):
            if resident[routed] and name not in MAY_MOVE_RESIDENTS:
                assert chosen == routed
            if chosen not in (routed, DROPPED):
                assert resident[chosen] or chosen in state.ids if name in MAY_USE_BATCH else resident[chosen]
    if phase == PREFILL:
        np.testing.assert_array_equal(state.executed_ids, state.ids)
        assert not state.degraded.any()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"similarity", "expert_budget"}))
def test_every_yaml_runs_and_spares_no_more_than_it_says(name):
    trace = random_trace(3, num_experts=16, top_k=4, prompts=(5, 4), decodes=(12, 10))
    policy = replace(BARE, name=name, substitution=PARTS[name])
    setup = DeviceSetup(policy, machine(), CacheConfig(slots_per_layer=6))
    metrics = run(assemble(trace, setup, others=random_trace(4, num_experts=16, top_k=4)))
    assert (metrics["drop_rate"] > 0) <= (name in DROPS)
    if name != "none":
        assert metrics["lost_gate_mass"] > 0
        assert metrics["decode.substitution_rate"] > 0 or metrics["decode.drop_rate"] > 0


def test_a_replay_gives_the_rule_the_similarities_of_the_trace():
    trace = random_trace(3, num_experts=16, top_k=4, prompts=(5, 4), decodes=(12, 10))
    alike = np.full((3, 16, 16), 0.5, np.float16)
    alike[:, np.arange(16), np.arange(16)] = 1.0
    trace = replace(trace, expert_similarity=alike)
    part = replace(PARTS["similarity"], min_similarity=0.25)
    policy = replace(BARE, name="similarity", substitution=part)
    replay = assemble(trace, DeviceSetup(policy, machine(), CacheConfig(slots_per_layer=6)))
    np.testing.assert_array_equal(replay.device.memories["substitution"], part.initial_memory(None, alike, None))
    assert run(replay)["decode.substitution_rate"] > 0
