"""The recurrence that is compiled for steps of one token against the one for any step, on the same steps."""

import numpy as np
import pytest

from sim.engine.clocks.plain import is_plain, plain_steps
from sim.engine.clocks.recurrence import run_steps
from sim.engine.decision.layout import ABSENT_FEATURES, CACHE, ONE_CACHE, ONE_STATE, STATE
from tests.support.random_traces import random_trace
from tests.support.replays import POLICIES, replay_of


def outcome(policy, general):
    """All that a replay of prompts and single tokens says, and how its single tokens were replayed."""
    trace = random_trace(3, 3, 8, 2, prompts=(4, 0, 2), decodes=(5, 6, 9), expert_bytes=1000)
    replay = replay_of(trace, POLICIES[policy], engine="compiled", slots_per_layer=3)
    used = replay.engine.run_single
    if general:
        replay.engine.run_single = run_steps
    results = list(replay.blocks())
    return used, [np.concatenate([getattr(r, name) for r in results]) for name in ("latency_ns", "parts_ns", "counts")]


@pytest.mark.parametrize("policy", ["importance", "prefetch", "substitute", "cpu", "prefetch_end"])
def test_single_tokens_are_replayed_alike(policy):
    used, plain = outcome(policy, False)
    _, general = outcome(policy, True)
    assert used is plain_steps()
    for first, second in zip(plain, general, strict=True):
        assert np.array_equal(first, second)


def test_what_only_evicts_keeps_its_short_way():
    assert outcome("lru", False)[0] is run_steps


@pytest.mark.parametrize("flag", ABSENT_FEATURES)
def test_no_device_with_one_of_the_features_is_plain(flag):
    device = replay_of(random_trace(3, 3, 8, 2), POLICIES["importance"], engine="compiled", slots_per_layer=3).device
    assert is_plain(device)
    device.cache.set(flag, 1)
    assert not is_plain(device)


def test_the_views_are_of_the_same_memory():
    assert list(ONE_STATE.fields) == list(STATE.fields) and list(ONE_CACHE.fields) == list(CACHE.fields)
    assert set(ABSENT_FEATURES) <= set(CACHE.fields)
