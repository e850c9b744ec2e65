"""The committed trace of the demo model: what it holds, and that it shows what a study of substitution needs."""

import numpy as np
import pytest

from traces.demo.recipe import SLOPE_STATEMENT
from traces.embedded import embedded_trace_path
from traces.format.files import read_trace
from traces.format.trace import DECODE, PREFILL, Trace
from traces.statistics.gate import gate_statistics
from traces.statistics.miss_curve import lru_miss_curve


@pytest.fixture(scope="module")
def trace() -> Trace:
    return read_trace(embedded_trace_path("demo"))


def test_size_and_content(trace: Trace) -> None:
    assert embedded_trace_path("demo").stat().st_size <= 10_000_000
    assert trace.num_tokens >= 6000 and trace.num_requests >= 20
    assert trace.request_labels is not None and set(trace.request_labels) == {"prose", "code"}
    for start, stop in zip(trace.request_offsets[:-1], trace.request_offsets[1:], strict=True):
        assert set(trace.phase[start:stop].tolist()) == {PREFILL, DECODE}
    assert trace.router_logits is not None and not trace.router_logits.truncated
    for table in (trace.lookahead_before, trace.lookahead_after):
        assert table is not None and table.values.shape == (trace.num_tokens, 5, trace.top_k + 16)


def test_it_says_that_the_slope_was_set(trace: Trace) -> None:
    assert trace.provenance["statement"] == SLOPE_STATEMENT
    assert trace.provenance["mode"] == "generate" and "temperature" in trace.provenance["decoding"]
    assert "/" not in trace.provenance["model"] and trace.geometry.model == "demo"


def test_ids_and_weights_follow_from_the_logits(trace: Trace) -> None:
    assert trace.router_logits is not None and trace.topk_weights is not None
    assert trace.score_function == "softmax_topk" and "weight_scale" not in trace.provenance
    order = np.argsort(-trace.router_logits.values.astype(np.float32), axis=-1, kind="stable")
    assert np.array_equal(order[..., : trace.top_k], trace.topk_ids)  # strict although rounded to float16
    chosen = np.take_along_axis(trace.gate_scores(0, trace.num_tokens), trace.topk_ids.astype(np.int64), -1)
    np.testing.assert_allclose(chosen / chosen.sum(-1, keepdims=True), trace.topk_weights, atol=3e-3)


def test_slope_locality_and_lookahead_are_those_of_held_out_text(trace: Trace) -> None:
    assert 0.35 <= gate_statistics(trace).gate_slope <= 0.50
    assert 0.40 <= lru_miss_curve(trace).hit_rate(trace.num_experts // 4, DECODE) <= 0.55
    for table, least in ((trace.lookahead_before, 0.75), (trace.lookahead_after, 0.8)):
        assert table is not None and table.ids is not None
        listed = table.ids[:, :, : trace.top_k, None] == trace.topk_ids[:, 1:, None, :]
        assert listed.any(axis=2).mean() >= least


def test_generated_text_does_not_loop(trace: Trace) -> None:
    assert trace.token_ids is not None
    distinct = []
    for start, stop in zip(trace.request_offsets[:-1], trace.request_offsets[1:], strict=True):
        tokens = trace.token_ids[start:stop][trace.phase[start:stop] == DECODE].tolist()
        grams = list(zip(*(tokens[i:] for i in range(4)), strict=False))
        distinct.append(len(set(grams)) / len(grams))
    assert np.mean(distinct) > 0.9


def test_similarity_of_experts_is_measured_on_recorded_tokens(trace: Trace) -> None:
    similarity = trace.expert_similarity
    assert similarity is not None and similarity.shape == (6, 64, 64)
    assert "over 512 of 6120 recorded tokens" in trace.provenance["expert_similarity"]
    others = similarity[:, ~np.eye(64, dtype=bool)].astype(np.float64).reshape(6, 64, 63)
    assert 0.0 < others.mean() < 0.1  # nearly orthogonal on average
    assert 0.15 < others.max(axis=-1).mean() < 0.35  # and even the closest partner is far from a twin
