"""Recall, F1 and the published macro-F1 on counts small enough for hand."""

import numpy as np
import pytest

from sim.predictors.quality import Tally, measure, popular_scores, popularity, previous_scores
from tests.support.small_predictors import KINDS, request_trace, source_of

EVERY = np.ones(1, bool)


def tallied(scores, wanted, top_k=1, layers=EVERY):
    tally = Tally.empty(layers, len(wanted[0]))
    tally.add(np.array(scores, np.float32)[:, None], np.array(wanted, bool)[:, None], top_k)
    return tally.metrics()


def test_by_hand():
    """Four tokens, four experts, top 1; expert 0 is right twice, 1 is taken for 2 once, 3 is right.

    F1 by expert: 0: 1; 1: 0 (chosen, never wanted); 2: 0 (wanted, never chosen); 3: 1 -> macro 1/2. Chosen as a whole:
    3 of 4. Not chosen: 12 of 16 labels, 11 right: F1 = 22 / 24. Above one half: 2 scores, one of them right.
    """
    scores = [[0.9, 0, 0, 0], [0.4, 0, 0, 0], [0, 0.6, 0, 0], [0, 0, 0, 0.3]]
    wanted = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    found = tallied(scores, wanted)
    assert found["recall_at_k"] == pytest.approx(3 / 4)
    assert found["macro_f1_positive"] == pytest.approx(1 / 2)
    assert found["macro_f1_published"] == pytest.approx((3 / 4 + 22 / 24) / 2)
    assert found["accuracy_published"] == pytest.approx(14 / 16)
    assert found["precision_at_half"] == pytest.approx(1 / 2)
    assert found["recall_at_half"] == pytest.approx(1 / 4)


def test_the_published_macro_f1_follows_from_the_published_recall():
    """6 of 64 with a recall of 75.6 % give 86.5 %: most of it is the experts that are not chosen."""
    rng = np.random.default_rng(0)
    wanted = np.zeros((500, 64), bool)
    scores = np.zeros((500, 64), np.float32)
    for row in range(500):
        order = rng.permutation(64)
        right = 5 if row % 1000 < 268 else 4  # 4.536 of 6 on average
        wanted[row, order[:6]] = True
        scores[row, order[6 - right : 12 - right]] = 1.0
    found = tallied(scores, wanted, top_k=6)
    assert found["recall_at_k"] == pytest.approx(0.756, abs=1e-3)
    assert found["macro_f1_published"] == pytest.approx(0.865, abs=1e-3)


def test_layers_that_are_not_predicted_do_not_count():
    tally = Tally.empty(np.array([False, True]), 2)
    tally.add(np.array([[[1, 0], [0, 1]]], np.float32), np.array([[[0, 1], [0, 1]]], bool), 1)
    assert tally.metrics()["recall_at_k"] == 1.0


def test_nothing_to_divide_by_is_unknown():
    assert set(Tally.empty(EVERY, 3).metrics().values()) == {None}


def test_untrained_baselines_against_counting():
    trace = request_trace(requests=3)
    source, k = source_of(trace, KINDS["experts"]), trace.top_k
    shares = popularity(source, (0, 1))
    rows = int(trace.request_offsets[2])
    expected = np.bincount(trace.topk_ids[:rows, 2].ravel(), minlength=8) / rows
    assert shares[2] == pytest.approx(expected)
    layers = np.ones(trace.num_layers, bool)
    found = measure(previous_scores(source, shares), source, (2,), layers)["decode"]["recall_at_k"]
    first, end = source.bounds(2)
    decode = np.arange(first + int(trace.prompt_len[2]), end)
    same = (trace.topk_ids[decode][..., :, None] == trace.topk_ids[decode - 1][..., None, :]).any(-1)
    assert found == pytest.approx(same.mean())
    popular = np.argsort(-shares, axis=-1, kind="stable")[:, :k]
    hits = (trace.topk_ids[first:end][..., :, None] == popular[None, :, None, :]).any(-1)
    found = measure(popular_scores(shares), source, (2,), layers)["all"]["recall_at_k"]
    assert found == pytest.approx(hits.mean())
