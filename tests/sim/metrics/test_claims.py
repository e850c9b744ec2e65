"""Numbers are what their names say: shares in [0, 1], amounts not negative, parts that sum to the whole."""

from dataclasses import replace

import pytest

from policies.eviction.lru import Lru
from scripts.torture.claims import contradictions
from scripts.torture.numbers import drawn_runs
from tests.support.random_traces import random_trace
from tests.support.replays import POLICIES, machine, replay_of, run

TRACE = random_trace(0)


def test_drawn_compositions_contradict_nothing():
    tally = drawn_runs(25, seed=1)
    assert not tally.defects
    assert tally.outcomes["ran"] > 5


def test_single_accesses_that_nothing_holds_all_overflow():
    metrics = run(replay_of(TRACE, "on_demand", semantics="sequential"))
    assert metrics["overflow_rate"] == metrics["prefill.overflow_rate"] == metrics["decode.overflow_rate"] == 1.0


def test_single_accesses_demand_one_expert_of_the_slots():
    metrics = run(replay_of(TRACE, "lru", semantics="sequential", slots_per_layer=4))
    assert metrics["demand_to_capacity"] == 1 / 4 and metrics["overflow_rate"] == 0.0


def test_a_step_that_is_held_above_the_capacity_overflows():
    held = run(replay_of(TRACE, "lru", overflow="hold", slots_per_layer=2, batch_size=2))
    streamed = run(replay_of(TRACE, "lru", overflow="stream", slots_per_layer=2, batch_size=2, engine="untimed"))
    assert 0 < held["overflow_rate"] == streamed["overflow_rate"] <= 1


def test_more_memory_than_the_experts_take_holds_all_of_them_and_no_more():
    metrics = run(replay_of(TRACE, "lru", bytes=10**9))
    assert metrics["capacity_fraction"] == 1.0
    assert metrics["capacity_slots_per_layer"] == TRACE.num_experts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hit_rate": 1.5}, "hit_rate=1.5 is no share"),
        ({"simulated_s": -1.0}, "simulated_s=-1.0 is no amount"),
        ({"tpot_s.p50": 9e9}, "the quantiles of tpot_s fall"),
        ({"time_s_per_token.link": 5.0}, "the parts of a token's time sum to"),
    ],
)
def test_what_contradicts_a_name_is_found(changes, words):
    metrics = run(replay_of(TRACE, "lru", machine(), engine="compiled"))
    assert list(contradictions(metrics)) == []
    assert any(words in found for found in contradictions(metrics | changes))


def test_prefetches_count_where_they_end():
    """A prefetch that starts in the prompt and is used in decode is no second success of decode."""
    policy = replace(POLICIES["prefetch"], eviction=Lru())
    for seed in range(5):
        slow = machine(link_bytes_per_s=2e8)
        metrics = run(replay_of(random_trace(seed), policy, slow, engine="compiled", slots_per_layer=5))
        for prefix in ("", "prefill.", "decode."):
            assert metrics[f"{prefix}prefetch_precision"] is None or 0 <= metrics[f"{prefix}prefetch_precision"] <= 1
