"""Requests chosen by label, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format.selection import with_labels

LABELS = ("code", "prose", "code", "mathematics")


def labelled(**changed):
    """Requests of 3 + 2, 1 + 4, 2 + 2 and 4 + 1 rows: they begin at rows 0, 5, 10 and 14."""
    trace = random_trace(0, prompts=(3, 1, 2, 4), decodes=(2, 4, 2, 1))
    return replace(trace, request_labels=LABELS, content_hash="h", **changed)


def test_rows_of_the_chosen_requests_in_order():
    whole = labelled(provenance={"requests_with_repetition": [1, 2], "notes": ["kept"]})
    code = with_labels(whole, ("code",))
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
    one, two = (with_labels(labelled(), labels) for labels in (("prose", "code"), ("code", "prose")))
    assert one.content_hash == two.content_hash == "h/labels[code,prose]"
    np.testing.assert_array_equal(one.topk_ids, two.topk_ids)
    assert one.num_requests == 3


def test_all_labels_are_the_whole_trace():
    trace = labelled()
    assert with_labels(trace, ("code", "prose", "mathematics")) is trace


def test_unknown_labels_are_refused():
    with pytest.raises(UserError, match="no request is labelled poetry; known are code, mathematics, prose"):
        with_labels(labelled(), ("poetry",))
    with pytest.raises(UserError, match="carry no labels"):
        with_labels(replace(labelled(), request_labels=None), ("code",))
