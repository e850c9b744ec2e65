"""`trace.sample`: which requests it takes, and that a large selection does not lie in memory."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format import mapped
from traces.format.files import read_trace, write_trace
from traces.format.sampling import spread


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40), st.integers(0, 5), st.data())
def test_samples_are_spread_over_the_clusters(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    chosen = spread(labels, len(labels), count, seed)
    assert len(chosen) == count and (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < len(labels)
    taken, has = Counter(labels[i] for i in chosen), Counter(labels)
    most = max(taken.values())
    assert all(taken[label] == has[label] or taken[label] >= most - 1 for label in has)
    assert np.array_equal(chosen, spread(labels, len(labels), count, seed))
    assert set(chosen) <= set(spread(labels, len(labels), min(count + 1, len(labels)), seed))


def test_without_labels_every_request_has_the_same_chance():
    counts = np.zeros(10)
    for seed in range(2000):
        counts[spread(None, 10, 3, seed)] += 1
    assert abs(counts / 2000 - 0.3).max() < 0.05


def labelled(labels):
    from dataclasses import replace

    count = len(labels)
    trace = random_trace(3, prompts=(2,) * count, decodes=tuple(1 + i % 3 for i in range(count)))
    return replace(trace, request_labels=tuple(labels))


def test_a_sample_is_those_requests_and_says_so():
    trace = labelled("aaaaaabbc")
    sample = trace.sample_requests(5, 1)
    assert Counter(sample.request_labels) == {"a": 2, "b": 2, "c": 1}
    for place, number in enumerate(sample.request_numbers):
        (first, last), (own, end) = (t.request_offsets[i : i + 2] for t, i in ((trace, number), (sample, place)))
        assert np.array_equal(trace.topk_ids[first:last], sample.topk_ids[own:end])
    assert sample.content_hash.endswith("/sample[5 of 9, seed 1]")
    assert np.array_equal(sample.select_requests(2, 1).request_numbers, sample.request_numbers[1:3])
    assert trace.sample_requests(3, 0, among=4).request_numbers.max() < 4
    for count in (0, 10):
        with pytest.raises(UserError, match=f"trace.sample={count}: must be from 1 to 9"):
            trace.sample_requests(count, 0)


def test_a_large_sample_of_a_file_is_mapped_and_the_same(tmp_path, monkeypatch):
    write_trace(tmp_path / "t.safetensors", labelled("abcabcabcd"))
    held = read_trace(tmp_path / "t.safetensors").sample_requests(6, 0)
    monkeypatch.setattr(mapped, "HELD_BYTES", 0)
    monkeypatch.setattr(mapped, "PIECE_BYTES", 100)
    filed = read_trace(tmp_path / "t.safetensors").sample_requests(6, 0)
    assert mapped._mapping(filed.topk_ids) is not None and mapped._mapping(held.topk_ids) is None
    for name in ("topk_ids", "topk_weights", "phase", "request_offsets", "prompt_len"):
        assert np.array_equal(getattr(held, name), getattr(filed, name)), name
    if held.router_logits is not None:
        assert np.array_equal(held.router_logits.values, filed.router_logits.values)
