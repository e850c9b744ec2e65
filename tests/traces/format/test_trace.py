"""The Trace itself: parts, positions, probabilities."""

import numpy as np
import pytest

from tests.support.example_traces import random_trace, truncated
from traces.embedded import embedded_names, embedded_trace_path
from traces.errors import UserError
from traces.format.trace import ScoreTable
from traces.format.validation import validate


def test_positions_count_the_whole_prompt_whether_recorded_or_not():
    trace = random_trace(prompts=(2, 0), decodes=(2, 3))  # the second prompt has 7 tokens and no rows
    assert trace.positions().tolist() == [0, 1, 2, 3, 7, 8, 9]


def test_select_requests_gives_views_of_a_valid_trace():
    trace = random_trace(width=5)
    part = trace.select_requests(2)
    validate(part)
    assert (part.num_requests, part.num_tokens) == (2, 12)
    assert np.shares_memory(part.topk_ids, trace.topk_ids)
    assert part.router_logits.values.shape[0] == 12
    assert part.content_hash != trace.content_hash
    assert trace.select_requests(3) is trace


@pytest.mark.parametrize("count", [0, 4])
def test_select_requests_refuses_other_counts(count):
    with pytest.raises(UserError, match=f"trace.requests={count}: this trace has 3 requests"):
        random_trace().select_requests(count)


def test_probabilities_of_a_dense_table_are_the_softmax():
    values = np.array([[[1.0, 2.0, 4.0]]], np.float16)
    expected = np.exp([1, 2, 4]) / np.exp([1, 2, 4]).sum()
    np.testing.assert_allclose(ScoreTable(values).probabilities(0, 1, 3)[0, 0], expected, rtol=1e-6)


def test_listed_probabilities_of_a_truncated_table_are_exact_and_the_rest_is_shared():
    dense = random_trace().router_logits
    short = truncated(dense, 5)
    full, estimate = dense.probabilities(2, 9, 8), short.probabilities(2, 9, 8)
    listed = short.ids[2:9].astype(int)
    np.testing.assert_allclose(
        np.take_along_axis(estimate, listed, -1), np.take_along_axis(full, listed, -1), rtol=1e-5
    )
    np.testing.assert_allclose(estimate.sum(-1), 1, rtol=1e-5)
    assert short.truncated and not dense.truncated
    np.testing.assert_allclose(short.floors(2, 9), np.take_along_axis(full, listed, -1)[..., -1], rtol=1e-5)


def test_gate_scores_are_refused_without_logits():
    with pytest.raises(UserError, match="no router_logits"):
        random_trace(scores=False).gate_scores(0, 1)


def test_an_unknown_embedded_trace_is_refused():
    with pytest.raises(UserError, match="trace='nothing' is not embedded"):
        embedded_trace_path("nothing")
    for name in embedded_names():
        assert embedded_trace_path(name).is_file()
