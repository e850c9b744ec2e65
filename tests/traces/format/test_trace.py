"""The Trace itself: parts, positions, probabilities."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import recorded_trace, truncated
from traces.embedded import embedded_names, embedded_trace_path
from traces.errors import UserError
from traces.format.trace import ScoreTable
from traces.format.validation import validate


def test_positions_count_the_whole_prompt_whether_recorded_or_not():
    trace = recorded_trace(prompts=(2, 0), decodes=(2, 3))  # the second prompt has 7 tokens and no rows
    assert trace.positions().tolist() == [0, 1, 2, 3, 7, 8, 9]


def test_select_requests_gives_views_of_a_valid_trace():
    trace = recorded_trace(width=5)
    part = trace.select_requests(2)
    validate(part)
    assert (part.num_requests, part.num_tokens) == (2, 12)
    assert np.shares_memory(part.topk_ids, trace.topk_ids)
    assert part.router_logits.values.shape[0] == 12
    assert part.content_hash != trace.content_hash
    assert trace.select_requests(3) is trace


@pytest.mark.parametrize("count", [0, 4])
def test_select_requests_refuses_other_counts(count):
    with pytest.raises(UserError, match=f"trace.requests={count}: must be from 1 to 3, the requests"):
        recorded_trace().select_requests(count)


LABELS = ("code", "prose", "code", "mathematics")


def labelled(**changed):
    """Requests of 3 + 2, 1 + 4, 2 + 2 and 4 + 1 rows: they begin at rows 0, 5, 10 and 14."""
    trace = recorded_trace(0, prompts=(3, 1, 2, 4), decodes=(2, 4, 2, 1))
    return replace(trace, request_labels=LABELS, content_hash="h", **changed)


def test_rows_of_the_chosen_requests_in_order():
    whole = labelled(provenance={"requests_with_repetition": [1, 2], "notes": ["kept"]})
    code = whole.select_labels(("code",))
    rows = [0, 1, 2, 3, 4, 10, 11, 12, 13]
    np.testing.assert_array_equal(code.topk_ids, whole.topk_ids[rows])
    np.testing.assert_array_equal(code.phase, whole.phase[rows])
    assert code.request_offsets.tolist() == [0, 5, 9] and code.request_labels == ("code", "code")
    assert code.prompt_len.tolist() == whole.prompt_len[[0, 2]].tolist()
    for name in ("router_logits", "lookahead_before"):
        table = getattr(whole, name)
        assert (table is None) == (getattr(code, name) is None)
        if table is not None:
            np.testing.assert_array_equal(getattr(code, name).values, table.values[rows])
    assert code.provenance == {"requests_with_repetition": [1], "notes": ["kept"]}
    assert code.content_hash == "h/labels[code]"


def test_several_labels_in_any_order_are_the_same_selection():
    one, two = (labelled().select_labels(labels) for labels in (("prose", "code"), ("code", "prose")))
    assert one.content_hash == two.content_hash == "h/labels[code,prose]"
    np.testing.assert_array_equal(one.topk_ids, two.topk_ids)
    assert one.num_requests == 3


def test_all_labels_are_the_whole_trace():
    trace = labelled()
    assert trace.select_labels(("code", "prose", "mathematics")) is trace


def test_unknown_labels_are_refused():
    with pytest.raises(UserError, match="no request is labelled poetry; known are code, mathematics, prose"):
        labelled().select_labels(("poetry",))
    with pytest.raises(UserError, match="carry no labels"):
        replace(labelled(), request_labels=None).select_labels(("code",))


def test_probabilities_of_a_dense_table_are_the_softmax():
    values = np.array([[[1.0, 2.0, 4.0]]], np.float16)
    expected = np.exp([1, 2, 4]) / np.exp([1, 2, 4]).sum()
    np.testing.assert_allclose(ScoreTable(values).probabilities(0, 1, 3)[0, 0], expected, rtol=1e-6)


def test_listed_probabilities_of_a_truncated_table_are_exact_and_the_rest_is_shared():
    dense = recorded_trace().router_logits
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
        recorded_trace(scores=False).gate_scores(0, 1)


def test_an_unknown_embedded_trace_is_refused():
    with pytest.raises(UserError, match="trace='nothing' is not embedded"):
        embedded_trace_path("nothing")
    for name in embedded_names():
        assert embedded_trace_path(name).is_file()
