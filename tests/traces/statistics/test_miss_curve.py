"""The one-pass LRU curve against hand-worked rows, a plain cache and published figures."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.random_traces import ids_trace, recorded_trace
from traces.format.trace import DECODE, PREFILL
from traces.importers import gpt_oss
from traces.statistics.miss_curve import lru_miss_curve, stack_distances, step_starts


def plain_lru_hits(trace, capacity, reset_per_request=False):
    """Hits [2, L] of a cache per layer that keeps its `capacity` most recently touched experts after every step."""
    hits = np.zeros((2, trace.num_layers), int)
    starts = [*step_starts(trace).tolist(), trace.num_tokens]
    for layer in range(trace.num_layers):
        residents = []  # most recent first
        for start, stop in pairwise(starts):
            if reset_per_request and start in trace.request_offsets:
                residents = []
            touches = trace.topk_ids[start:stop, layer].reshape(-1).tolist()
            hits[trace.phase[start], layer] += sum(expert in residents for expert in set(touches))
            for expert in touches:
                residents = [expert, *(other for other in residents if other != expert)]
            residents = residents[:capacity]
    return hits


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=4),
    experts=st.integers(3, 9),
    reset=st.booleans(),
)
def test_hits_equal_a_plain_cache_at_every_capacity(seed, lengths, experts, reset):
    prompts, decodes = zip(*lengths, strict=True)
    trace = recorded_trace(seed, prompts, decodes, scores=False, num_layers=2, num_experts=experts)
    curve = lru_miss_curve(trace, reset)
    for capacity in range(experts + 1):
        np.testing.assert_array_equal(curve.hits[..., capacity], plain_lru_hits(trace, capacity, reset))
    assert np.all(np.diff(curve.hits, axis=-1) >= 0)  # more slots never hit less


def test_a_b_c_a_b_by_hand():
    curve = lru_miss_curve(ids_trace([[0], [1], [2], [0], [1]], experts=4))
    assert curve.hits[DECODE, 0].tolist() == [0, 0, 0, 2, 2]
    assert curve.hit_rate(3) == curve.hit_rate(3, DECODE) == 0.4
    assert np.isnan(curve.hit_rate(3, PREFILL))


def test_a_prompt_is_one_step_and_its_last_tokens_are_most_recent():
    # The prompt demands 0 1 2 once each though 0 comes twice, and leaves 1 and 0 as the most recent.
    phase = [PREFILL, PREFILL, DECODE, DECODE]
    curve = lru_miss_curve(ids_trace([[0, 2], [0, 1], [1, 0], [2, 3]], 4, phase, prompt_len=(2,)))
    assert curve.demands[:, 0].tolist() == [3, 4]
    assert curve.hits[PREFILL, 0].tolist() == [0, 0, 0, 0, 0]
    # Token 3 wants 1 and 0: both resident from 2 slots, only 1 with one slot; token 4 wants 2 (3 slots) and 3 (never).
    assert curve.hits[DECODE, 0].tolist() == [0, 1, 2, 3, 3]


def test_experts_of_one_step_do_not_evict_each_other():
    # Sequential LRU with 2 slots would miss both of the second token; looked up together both hit.
    assert lru_miss_curve(ids_trace([[0, 1], [1, 0]], experts=4)).hits[DECODE, 0, 2] == 2


def test_uniform_routing_hits_in_proportion_to_capacity():
    ids = np.random.default_rng(0).integers(0, 16, (20_000, 1, 1)).astype(np.uint8)
    curve = lru_miss_curve(ids_trace(ids, experts=16))
    for capacity in (2, 4, 8):
        assert curve.hit_rate(capacity) == pytest.approx(capacity / 16, abs=0.01)


def test_chunks_do_not_change_distances(monkeypatch):
    trace = recorded_trace(1, (5, 0, 30), (40, 7, 2), scores=False)
    whole = np.concatenate([chunk.distances for chunk in stack_distances(trace)])
    monkeypatch.setattr("traces.statistics.miss_curve._CHUNK_ROWS", 4)
    chunks = list(stack_distances(trace))
    assert len(chunks) > 5
    np.testing.assert_array_equal(np.concatenate([chunk.distances for chunk in chunks]), whole)


def test_gpt_oss_has_the_published_locality(shared_traces):
    trace = gpt_oss.read(shared_traces / "gpt_oss_20b", None)
    curve = lru_miss_curve(trace)
    # Measured elsewhere on a larger cut of the same recording, hence the tolerance.
    for capacity, rate in ((4, 0.437), (8, 0.651), (16, 0.897), (24, 0.981)):
        assert curve.hit_rate(capacity) == pytest.approx(rate, abs=0.001)
    first = replace(
        trace,
        topk_ids=trace.topk_ids[:1022],
        phase=trace.phase[:1022],
        request_offsets=trace.request_offsets[:3],
        prompt_len=trace.prompt_len[:2],
    )
    assert lru_miss_curve(first).hits[..., 8].sum() == plain_lru_hits(first, 8).sum()
