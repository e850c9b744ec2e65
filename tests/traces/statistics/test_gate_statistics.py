"""Gate slope, score bands and lookahead recall by hand and against numpy."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import ids_trace, recorded_trace, truncated
from traces.errors import UserError
from traces.format.trace import ScoreTable
from traces.statistics.gate import gate_statistics
from traces.statistics.lookahead import lookahead_statistics


def scored(probabilities, top_k):
    """A one-layer trace whose gate scores are these, [T, E]."""
    scores = np.array(probabilities)
    ids = np.argsort(-scores, axis=-1)[:, :top_k]
    table = ScoreTable(np.log(scores)[:, None].astype(np.float32))
    return ids_trace(ids, scores.shape[1], router_logits=table)


def test_bands_of_one_token_by_hand():
    # S_3 = .10: .30 is top-score, .12 is low-score from alpha .25 on; .10 itself, .08 and .07 can be candidates.
    trace = scored([[0.42, 0.12, 0.10, 0.08, 0.07, 0.05, 0.10 - 0.02, 0.08]], 2)
    found = gate_statistics(trace, alphas=(0.15, 0.25, 0.35))
    assert found.gate_slope == pytest.approx((np.log(4.2) + np.log(1.2)) / 2, rel=1e-5)
    assert found.low_share == (0, 0.5, 0.5)
    assert found.candidates == (1, 4, 5)
    assert found.low_share_of_misses == (0, 0.5, 0.5)  # everything misses a cold cache
    assert found.miss_slots == 2


def test_low_share_of_misses_counts_misses_only():
    row = [0.42, 0.12, 0.10, 0.08, 0.07, 0.05, 0.08, 0.08]
    other = [0.42, 0.10, 0.12, 0.08, 0.07, 0.05, 0.08, 0.08]
    # Expert 0 hits the second time, the low-score ones miss: 2 of 3 misses are low-score.
    assert gate_statistics(scored([row, other], 2), (0.25,)).low_share_of_misses == pytest.approx((2 / 3,))


def test_statistics_equal_numpy_on_random_scores():
    trace = recorded_trace(2, (5, 0), (20, 30), num_experts=12, top_k=3)
    scores = trace.gate_scores(0, trace.num_tokens)[trace.phase == 1].astype(np.float64)
    edge = np.sort(scores, axis=-1)[..., -4, None]
    own = np.sort(scores, axis=-1)[..., -3:]
    found = gate_statistics(trace, (0.3,))
    assert found.gate_slope == pytest.approx(np.log(own / edge).mean(), rel=1e-5)
    assert found.low_share[0] == pytest.approx(((own > edge) & (own < 1.3 * edge)).mean())
    assert found.candidates[0] == pytest.approx(((scores > 0.7 * edge) & (scores <= edge)).sum(-1).mean())


def test_a_truncated_table_gives_the_same_and_reports_its_floor():
    trace = recorded_trace(2, (5, 0), (20, 30), num_experts=32, top_k=3)
    dense = gate_statistics(trace)
    enough = gate_statistics(replace(trace, router_logits=truncated(trace.router_logits, 28)))
    assert enough.gate_slope == pytest.approx(dense.gate_slope, rel=1e-5)
    assert (enough.low_share, enough.candidates) == (dense.low_share, dense.candidates)
    assert enough.below_floor == (0, 0, 0)
    short = gate_statistics(replace(trace, router_logits=truncated(trace.router_logits, 4)))
    assert short.low_share == dense.low_share
    assert short.candidates == (1, 1, 1)  # only rank k+1 is known
    assert min(short.below_floor) > 0.9


def test_chunks_do_not_change_statistics(monkeypatch):
    trace = recorded_trace(2, (5, 0), (20, 30))
    whole = gate_statistics(trace), lookahead_statistics(trace, trace.lookahead_after)
    monkeypatch.setattr("traces.statistics.routing._CHUNK_BYTES", 1000)
    chunked = gate_statistics(trace), lookahead_statistics(trace, trace.lookahead_after)
    assert chunked[0].low_share == whole[0].low_share and chunked[1] == whole[1]


def test_a_perfect_lookahead_recalls_everything():
    trace = recorded_trace(num_experts=16)
    perfect = ScoreTable(trace.router_logits.values[:, 1:])
    found = lookahead_statistics(trace, perfect)
    assert (found.recall, found.top_score_recall, found.top_score_precision) == (1, (1,) * 3, (1,) * 3)


def test_an_inverted_lookahead_recalls_nothing():
    trace = recorded_trace(num_experts=16)
    found = lookahead_statistics(trace, ScoreTable(-trace.router_logits.values[:, 1:]))
    assert (found.recall, found.top_score_recall, found.top_score_precision) == (0, (0,) * 3, (0,) * 3)


def test_recall_needs_no_router_logits():
    trace = recorded_trace(num_experts=16)
    found = lookahead_statistics(replace(trace, router_logits=None), trace.lookahead_before)
    assert 0 <= found.recall <= 1 and found.top_score_recall is None


def test_what_is_absent_is_refused():
    with pytest.raises(UserError, match="no router_logits"):
        gate_statistics(recorded_trace(scores=False))
    with pytest.raises(UserError, match="there is no expert of rank k"):
        gate_statistics(recorded_trace(num_experts=2))
