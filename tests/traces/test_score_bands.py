"""The best experts and the score bands against their definitions, written the slow way."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from traces.score_bands import (
    ABOVE_ALL,
    BELOW_ALL,
    best_key_below,
    best_within,
    expert_of,
    next_score,
    next_score_beside,
    top_experts,
)

few_scores = st.lists(st.sampled_from([0.0, 1e-30, 0.1, 0.25, 0.3, 0.7, 1.0]), min_size=1, max_size=9)


def test_keys_order_by_score_then_by_lower_id():
    scores = np.array([0.2, 0.5, 0.0, 0.5], np.float32)
    first = best_key_below(scores, ABOVE_ALL)
    second = best_key_below(scores, first)
    assert (expert_of(first), expert_of(second)) == (1, 3)
    assert best_key_below(scores, best_key_below(scores, best_key_below(scores, second))) == BELOW_ALL


def test_the_edges_of_a_band():
    scores, free = np.array([0.1, 0.2, 0.3, 0.3], np.float32), np.ones(4)
    edge = float(scores[2])
    assert best_within(scores, free, 0.15, edge, True) == 2
    assert best_within(scores, free, 0.15, edge, False) == 1
    free[1:3] = 0
    assert best_within(scores, free, 0.15, edge, True) == 3
    assert best_within(scores, free, 0.15, edge, False) == -1


@given(few_scores, st.data())
def test_best_experts_and_the_next_score(values, data):
    scores = np.array(values, np.float32)
    count = data.draw(st.integers(0, len(values)))
    found = np.zeros(count, np.int32)
    top_experts(scores, count, found)
    assert found.tolist() == sorted(range(len(scores)), key=lambda expert: (-scores[expert], expert))[:count]
    ids = np.array(data.draw(st.permutations(range(len(values)))), np.int32)
    routed = np.zeros(len(values))
    routed[ids[:count]] = 1
    expected = max((float(scores[expert]) for expert in ids[count:]), default=0.0)
    assert next_score(scores, ids, count) == next_score_beside(scores, routed) == expected
