"""MoE-Beyond's arithmetic: rows worked out by hand, and what must hold for any prediction."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.studies.systems.free_prefetch import best_predicted, count_hits
from tests.support.random_traces import routed
from tests.support.replays import replay_of, run


def one_layer(*tokens):
    return np.array(tokens, np.int64)[:, None, :]


def test_by_hand():
    """Two experts a token, three slots: 0 1 | 1 2 | 0 3.

    LRU: 0, 1 miss; 1 hits, 2 misses; 0 (the least recent is 0: still there) hits, 3 misses and evicts 1.
    Predicted 1 4 | 1 2 | 0 2: 1 and 4 are fetched, 0 misses, 1 hits; 1 is there, 2 comes for 4, both hit; 0 and 2 are
    there, 0 hits, 3 misses: 4 hits of 6 with 2 demand and 3 prefetch loads.
    """
    ids = one_layer([0, 1], [1, 2], [0, 3])
    plain = count_hits(ids, ids[:, :, :0], 5, 3)
    assert (plain.hits, plain.demand_loads, plain.prefetch_loads, plain.right) == (2, 4, 0, 0)
    free = count_hits(ids, one_layer([1, 4], [1, 2], [0, 2]), 5, 3)
    assert (free.hits, free.demand_loads, free.prefetch_loads, free.right) == (4, 2, 3, 4)
    assert free.loads_per_token == pytest.approx(5 / 3)


def test_a_random_start_and_a_fresh_one_for_each_request():
    ids = one_layer([0], [1], [2])
    start = np.array([2, 1])
    assert count_hits(ids, ids[:, :, :0], 3, 2, start=start).hits == 1  # 0 evicts 2, 1 hits, 2 misses
    again = count_hits(ids, ids[:, :, :0], 3, 2, np.array([0, 2, 3]), start)
    assert again.hits == 2  # the second request finds 2 once more


def test_the_best_are_predicted_and_nothing_where_nothing_is_known():
    scores = np.array([[[0.1, 0.4, 0.4], [0, 0, 0]]], np.float32)
    assert best_predicted(scores, 2).tolist() == [[[1, 2], [-1, -1]]]


experts = st.integers(0, 5)
steps = st.lists(
    st.tuples(
        *[st.tuples(st.lists(experts, min_size=2, max_size=2, unique=True), st.lists(experts, min_size=3, max_size=3))]
        * 2
    ),
    min_size=1,
    max_size=20,
)


def arrays(found):
    ids = np.array([[layer[0] for layer in step] for step in found], np.int64)
    return ids, np.array([[layer[1] for layer in step] for step in found], np.int64)


@given(found=steps, capacity=st.integers(5, 12))
def test_free_prefetches_hit_at_least_as_often_as_they_are_right(found, capacity):
    """With room for what is predicted (3) and routed (2)."""
    ids, predicted = arrays(found)
    free = count_hits(ids, predicted, 6, capacity)
    right = sum(e in predicted[t, m] for t in range(len(ids)) for m in range(2) for e in ids[t, m])
    recall = right / ids.size
    assert free.hit_rate >= recall
    assert free.hits + free.demand_loads == free.accesses == ids.size


@given(found=steps, capacity=st.integers(1, 12))
def test_the_cache_is_an_lru(found, capacity):
    ids, predicted = arrays(found)
    cache, hits, loads = OrderedDict(), 0, 0

    def touch(expert):
        inside = expert in cache
        cache[expert] = True
        cache.move_to_end(expert)
        if len(cache) > capacity:
            cache.popitem(last=False)
        return inside

    for guesses, used in zip(predicted, ids, strict=True):
        for layer in range(2):
            loads += sum(not touch((layer, int(e))) for e in guesses[layer])
            hits += sum(touch((layer, int(e))) for e in used[layer])
    counted = count_hits(ids, predicted, 6, capacity)
    assert (counted.hits, counted.prefetch_loads) == (hits, loads)


def test_without_predictions_it_is_the_engines_sequential_lru():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((40, 3, 8)), axis=-1)[..., :2]
    trace = routed(ids, 8, [0], [40])
    for capacity in (3, 7, 12):
        metrics = run(replay_of(trace, "lru", bytes=1000 * capacity, scope="global", semantics="sequential"))
        assert count_hits(ids, ids[:, :, :0], 8, capacity).hit_rate == pytest.approx(metrics["hit_rate"], abs=1e-12)
