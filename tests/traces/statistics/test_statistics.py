"""Locality statistics by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import ids_trace, recorded_trace
from traces.format.trace import DECODE, PREFILL
from traces.statistics.routing import counted_rows, expert_uses, label_counts, next_token_reuse, popularity
from traces.statistics.summary import summarize, warnings


def test_uniform_use_has_full_entropy_and_a_quarter_in_the_top_quarter():
    use = popularity(ids_trace([[0, 1], [2, 3], [4, 5], [6, 7]], experts=8))
    assert use.entropy.tolist() == pytest.approx([1])
    assert use.top_quarter_share.tolist() == pytest.approx([0.25])


def test_one_favourite_has_no_entropy():
    use = popularity(ids_trace([[3]] * 5, experts=8))
    assert (use.entropy.tolist(), use.top_quarter_share.tolist()) == ([0], [1])


def test_only_decode_rows_count_where_there_are_any():
    phase = [PREFILL, PREFILL, DECODE]
    trace = ids_trace([[0, 1], [0, 1], [2, 3]], 4, phase, prompt_len=(2,))
    assert counted_rows(trace).tolist() == [False, False, True]
    assert expert_uses(trace).tolist() == [[0, 0, 1, 1]]
    teacher = ids_trace([[0, 1], [0, 1]], 4, [PREFILL] * 2, prompt_len=(2,))
    assert expert_uses(teacher).tolist() == [[2, 2, 0, 0]]


def test_reuse_is_within_a_request_and_its_decode_rows():
    # Decode pairs: (0 1)->(1 2) shares one, (5 6)->(6 5) shares two; nothing across prompt or requests.
    rows = [[0, 1], [0, 1], [1, 2], [1, 2], [5, 6], [6, 5]]
    phase = [PREFILL, DECODE, DECODE, PREFILL, DECODE, DECODE]
    trace = ids_trace(rows, 8, phase, prompt_len=(1, 1), offsets=[0, 3, 6])
    assert next_token_reuse(trace) == 3 / 4
    assert np.isnan(next_token_reuse(ids_trace([[0, 1]], 8)))


def test_reuse_does_not_depend_on_chunks(monkeypatch):
    trace = recorded_trace(3, (3, 0, 9), (40, 30, 5), scores=False)
    whole = next_token_reuse(trace), expert_uses(trace)
    monkeypatch.setattr("traces.statistics.routing._CHUNK_BYTES", 100)
    assert next_token_reuse(trace) == whole[0]
    np.testing.assert_array_equal(expert_uses(trace), whole[1])


def test_lru_hits_are_read_off_at_fractions_of_the_experts():
    locality = summarize(ids_trace([[0], [1], [2], [0], [1]], experts=4))["locality"]
    assert locality["lru_slots"] == [1, 1, 2, 3]
    assert locality["lru_hit_rate_decode"] == [0, 0, 0, 0.4]


def test_labels_are_counted():
    assert label_counts(recorded_trace()) == {"a": (2, 10), "b": (1, 5)}
    assert label_counts(replace(recorded_trace(), request_labels=None)) == {}


def test_the_summary_warns_of_what_misleads():
    plain = summarize(recorded_trace())
    assert warnings(plain) == ["At 1 slots a token's 2 experts do not fit; a step keeps its most recent ones."]
    trace = recorded_trace()
    flat = replace(trace.router_logits, values=trace.router_logits.values * np.float32(0.01))
    assert any("low-score" in text for text in warnings(summarize(replace(trace, router_logits=flat))))
    prompt_only = recorded_trace(prompts=(6,), decodes=(0,), num_experts=40)
    (sentence,) = warnings(summarize(prompt_only))
    assert sentence.startswith("There are no decode rows: statistics are over prefill rows")
