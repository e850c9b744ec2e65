"""A forecast knows the past of its request and nothing else, however it is computed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.predictors.forecast import Forecaster
from tests.support.small_predictors import KINDS, network_of, request_trace, source_of
from traces.format.trace import PREFILL, ScoreTable

TOLERANCE = 1e-5


def forecast(trace, kind, depth=2, chunk_rows=None, as_decode=False, **changes):
    known = request_trace()  # what the network and its vocabulary were made from
    sizes = replace(KINDS[kind], **changes)
    network = network_of(source_of(known, sizes), sizes)
    source = replace_trace(source_of(known, sizes, as_decode), trace)
    return Forecaster(network, source, depth, chunk_rows).read(np.arange(trace.num_tokens))


def replace_trace(source, trace):
    source.trace = trace
    return source


def scrambled(trace, row, layer, seed=7):
    """Other routing, scores and tokens: in later rows whole, in ``row`` itself from the layer after ``layer`` on."""
    other = request_trace(seed)
    ids, logits, tokens = (np.array(a) for a in (trace.topk_ids, trace.router_logits.values, trace.token_ids))
    ids[row + 1 :], logits[row + 1 :] = other.topk_ids[row + 1 :], other.router_logits.values[row + 1 :]
    tokens[row + 1 :] = (tokens[row + 1 :] + 1 + other.token_ids[row + 1 :] % 9) % 10
    ids[row, layer + 1 :], logits[row, layer + 1 :] = other.topk_ids[row, layer + 1 :], -logits[row, layer + 1 :]
    return replace(trace, topk_ids=ids, router_logits=ScoreTable(logits), token_ids=tokens)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_future_changes_nothing(kind, data):
    trace = request_trace()
    row = data.draw(st.integers(0, trace.num_tokens - 2))
    layer = data.draw(st.integers(0, trace.num_layers - 1))
    before, after = forecast(trace, kind), forecast(scrambled(trace, row, layer), kind)
    assert np.abs(before[:row] - after[:row]).max(initial=0) <= TOLERANCE
    assert np.abs(before[row, : layer + 1] - after[row, : layer + 1]).max() <= TOLERANCE


def test_the_published_variant_reads_the_future_of_its_request():
    trace = request_trace()
    row = int(trace.request_offsets[1]) + 2
    before = forecast(trace, "tokens", causal=False)
    after = forecast(scrambled(trace, row, 3), "tokens", causal=False)
    assert np.abs(before[row] - after[row]).max() > 1e-3
    assert np.abs(before[: trace.request_offsets[1]] - after[: trace.request_offsets[1]]).max() <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_past_changes_something(kind):
    """The test above cannot pass because a network ignores its input."""
    trace = request_trace()
    first = int(trace.request_offsets[1])
    row = first + int(trace.prompt_len[1]) + 3
    assert np.abs(forecast(trace, kind)[row] - forecast(scrambled(trace, row - 2, 3), kind)[row]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_rows", [1, 3])
def test_row_by_row_gives_what_bulk_gives(kind, chunk_rows):
    trace = request_trace()
    online, bulk = forecast(trace, kind, chunk_rows=chunk_rows), forecast(trace, kind)
    assert online.shape == (trace.num_tokens, 4, 2, 8)
    assert np.abs(online - bulk).max() <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_reading_does_not_matter(kind, monkeypatch):
    """Requests in lockstep, backwards, and with nothing kept."""
    trace = request_trace()
    sizes = KINDS[kind]
    source = source_of(trace, sizes)
    bulk = Forecaster(network_of(source, sizes), source, 2).read(np.arange(trace.num_tokens))
    monkeypatch.setattr("sim.predictors.forecast.MAX_CACHED_BYTES", 0)
    forecaster = Forecaster(network_of(source, sizes), source, 2, chunk_rows=2)
    for step in [*range(9), *reversed(range(9))]:
        rows = trace.request_offsets[:-1] + step
        assert np.abs(forecaster.read(rows) - bulk[rows]).max() <= TOLERANCE
    assert len(forecaster.chunks) <= 2 * trace.num_requests


def test_no_prompt_token_knows_the_experts_of_the_one_before_it():
    """A prompt passes each layer as a whole; with as_decode every row is a step of its own."""
    trace = request_trace()
    rows = source_of(trace, KINDS["experts"]).previous(0, trace.num_tokens)
    prefill = trace.phase == PREFILL
    assert (rows[prefill] == -1).all()
    assert np.array_equal(rows[~prefill], trace.topk_ids[np.flatnonzero(~prefill) - 1])
    rows = source_of(trace, KINDS["experts"], as_decode=True).previous(0, trace.num_tokens)
    assert np.flatnonzero((rows == -1).all(axis=(1, 2))).tolist() == trace.request_offsets[:-1].tolist()


def test_layers_out_of_reach_have_zeros():
    trace = request_trace()
    found = forecast(trace, "promoe", depth=3)  # it was made with stride 2
    assert (found[:, :3, 0] > 0).all() and (found[:, :2, 1] > 0).all()
    assert not found[:, 3, 0].any() and not found[:, 2:, 1].any() and not found[:, :, 2].any()
    found = forecast(trace, "tokens", depth=3)
    assert np.array_equal(found[:, 0, 1], found[:, 1, 0]) and np.array_equal(found[:, 0, 2], found[:, 2, 0])


def test_attention_falls_with_distance_and_ends_with_the_context():
    from sim.predictors.encoder import distance_bias

    bias = distance_bias(queries=2, past=2, heads=2, context=3, causal=True).numpy()
    low = float("-inf")
    assert bias[1].tolist() == [[-2 / 256, -1 / 256, 0, low], [low, -2 / 256, -1 / 256, 0]]
    assert bias[0, 0].tolist() == [-2 / 16, -1 / 16, 0, low]
    both = distance_bias(queries=3, past=0, heads=1, context=2, causal=False).numpy()
    assert both[0].tolist() == [[0, -1 / 256, low], [-1 / 256, 0, -1 / 256], [low, -1 / 256, 0]]


def test_what_the_window_does_not_reach_changes_nothing():
    """tokens: 2 blocks and a context of 4 reach 6 rows back, and the seventh changes nothing."""
    trace = request_trace()
    first = int(trace.request_offsets[2])
    tokens = np.array(trace.token_ids)
    tokens[first] = (tokens[first] + 5) % 10
    before, after = forecast(trace, "tokens"), forecast(replace(trace, token_ids=tokens), "tokens")
    changed = np.abs(before - after).max(axis=(1, 2, 3)) > TOLERANCE
    assert changed[first] and changed[first + 1] and not changed[first + 7 :].any()
