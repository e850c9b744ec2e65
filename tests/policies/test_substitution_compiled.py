"""Compiled substitution and assignment rules decide exactly as the same functions do in plain Python."""

from dataclasses import fields, replace

import numpy as np
import pytest
from numba import i8, njit, void

from policies.state import DECODE, PREFILL, State, array_fields, plain_state
from sim.assembly.catalogue import load_policy
from sim.engine.decision.layout import PART_NAMES, STATE, as_rules, as_state
from sim.engine.decision.rule_compilation import compile_rules
from sim.engine.decision.struct_views import Struct
from tests.policies.test_assignment_properties import PARTS as ASSIGNMENTS
from tests.policies.test_substitution_properties import LAYERS, RANKS, drawn_state, memory_of
from tests.policies.test_substitution_properties import PARTS as SUBSTITUTIONS

COUNTERS = ("layer", "now", "phase", "num_tokens", "has_scores", "num_demand", "num_executed", "num_missing")


@njit(void(i8, i8))
def substitute(rules, state):
    r = as_rules(rules)
    r.substitute(r.substitution, as_state(state), r.substitution_memory)


@njit(void(i8, i8))
def assign(rules, state):
    r = as_rules(rules)
    r.assign(r.assignment, as_state(state), r.assignment_memory)


def rules_with(memory, **parts):
    """The compiled rules of a policy with these parts, all of which share a memory."""
    policy = replace(load_policy("lru"), **parts)
    return compile_rules(policy, dict.fromkeys(PART_NAMES, memory))


def compiled_copy(plain):
    """(the same state in compiled code, its arrays by name)."""
    tokens = plain.scores.shape[0]
    arrays = array_fields(plain.num_layers, plain.num_experts, plain.num_ranks, tokens)
    for field in fields(State):
        if field.name in arrays:
            arrays[field.name][:] = getattr(plain, field.name)
    sizes = ("num_layers", "num_experts", "num_ranks", "seed")
    state = Struct(STATE, **{name: int(getattr(plain, name)) for name in (*sizes, *COUNTERS)}, **arrays)
    return state, arrays


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", sorted(SUBSTITUTIONS))
def test_substitution(name):
    part = SUBSTITUTIONS[name]
    for seed in range(60):
        phase = PREFILL if seed % 10 == 0 else DECODE
        plain, rng = drawn_state(seed, 1 + seed % 4, phase, (0.2, 0.5, 0.8)[seed % 3])
        state, arrays = compiled_copy(plain)
        memory = memory_of(part, rng)
        compiled_memory = memory.copy()
        part.substitute(plain, memory)
        rules = rules_with(compiled_memory, substitution=part)
        substitute(rules.address, state.address)
        for field in ("executed_ids", "degraded"):
            np.testing.assert_array_equal(arrays[field], getattr(plain, field))
        np.testing.assert_allclose(compiled_memory, memory, rtol=1e-6)


def drawn_misses(seed):
    """A layer step that misses some experts at random costs."""
    rng = np.random.default_rng(seed)
    state = plain_state(LAYERS, 20, RANKS, 1)
    state.layer, state.phase, state.num_tokens = 1, DECODE, 1
    state.num_missing = int(rng.integers(1, 8)) if seed % 4 else 15
    state.num_executed = state.num_missing + 3
    for cost in ("load_ns", "cpu_ns", "gpu_ns", "tokens"):
        getattr(state, f"missing_{cost}")[:] = rng.integers(1, 50, 20)
    state.missing_importance[:] = rng.random(20)
    state.missing[:] = state.order[:] = state.executed[:] = range(20)
    state.executed_gpu_ns[:], state.executed_tokens[:] = rng.integers(1, 50, 20), rng.integers(1, 9, 20)
    state.status[1, state.num_missing :] = rng.choice([1, 2], 20 - state.num_missing)
    return state


@pytest.mark.parametrize("name", sorted(ASSIGNMENTS))
def test_assignment(name):
    part = ASSIGNMENTS[name]
    memory = np.zeros(part.memory_size(LAYERS, 20, RANKS))
    compiled_memory = memory.copy()
    rules = rules_with(compiled_memory, assignment=part)
    for seed in range(40):
        plain = drawn_misses(seed)
        state, arrays = compiled_copy(plain)
        part.assign(plain, memory)
        assign(rules.address, state.address)
        for field in ("side", "order"):
            np.testing.assert_array_equal(arrays[field], getattr(plain, field))
        np.testing.assert_allclose(compiled_memory, memory, rtol=1e-12)
