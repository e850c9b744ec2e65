"""Stand-ins for routing: the shape asked for, rows that are rows of the source, and what is refused."""

import numpy as np
import pytest

from sim.assembly.build import build, open_trace
from sim.assembly.compose import compose_run
from sim.config import TraceConfig
from tests.support.random_traces import random_trace, recorded_trace
from traces.demo.stand_in import stand_in
from traces.errors import UserError
from traces.format.trace import Geometry

SHAPE = Geometry("wide", num_layers=7, num_experts=20, top_k=5, expert_bytes=(10,) * 7)


def test_the_shape_is_the_models_and_scores_are_the_sources():
    source = random_trace(3, num_layers=3, num_experts=8)
    made = stand_in(source, SHAPE)
    assert made.topk_ids.shape == (source.num_tokens, 7, 5) and made.geometry is SHAPE
    assert (made.phase == source.phase).all() and (made.request_offsets == source.request_offsets).all()
    values = made.router_logits.values
    best = np.sort(values, axis=-1)[..., -5:]
    assert (np.sort(np.take_along_axis(values, made.topk_ids.astype(int), -1), axis=-1) == best).all()
    assert made.topk_weights.astype(float).sum(-1) == pytest.approx(1.0, abs=2e-3)
    known = {tuple(np.sort(row)) for row in source.router_logits.values.reshape(-1, 8)}
    blocks = values[..., :16].reshape(source.num_tokens, 7, 2, 8).reshape(-1, 8)
    assert all(tuple(np.sort(row)) in known for row in blocks)


def test_rows_stay_within_their_request_and_phase():
    source = random_trace(4, num_layers=2, num_experts=8)
    made = stand_in(source, Geometry("deep", 8, 8, 2))
    parts = np.repeat(np.arange(source.num_requests), np.diff(source.request_offsets)) * 2 + source.phase
    for layer in range(8):
        for part in np.unique(parts):
            rows = np.sort(made.router_logits.values[parts == part, layer], axis=-1)
            origin = np.sort(source.router_logits.values[parts == part, layer % 2], axis=-1)
            assert {tuple(row) for row in rows} == {tuple(row) for row in origin}


def test_layers_differ_and_a_shape_is_always_the_same():
    source = random_trace(5, num_layers=2, num_experts=8)
    made, again = (stand_in(source, Geometry("deep", 6, 8, 2)) for _ in range(2))
    assert (made.topk_ids == again.topk_ids).all() and made.content_hash == again.content_hash
    assert len({made.topk_ids[:, layer].tobytes() for layer in range(6)}) == 6


def test_the_slope_moves_scores_and_not_the_routing():
    source = random_trace(6, num_layers=2, num_experts=8)
    plain, flat = stand_in(source, SHAPE), stand_in(source, SHAPE, 0.5)
    assert (plain.topk_ids == flat.topk_ids).all() and plain.content_hash != flat.content_hash
    assert flat.router_logits.values == pytest.approx(0.5 * plain.router_logits.values)
    assert flat.topk_weights[..., 0].mean() < plain.topk_weights[..., 0].mean()


def test_a_run_takes_the_whole_models_shape_and_says_that_it_is_synthetic():
    replay = build(compose_run("trace=stand_in", "model=olmoe_1b_7b", "policy=lru", "engine=untimed"))
    assert replay.trace.topk_ids.shape[1:] == (16, 8) and replay.geometry.num_layers == 16
    assert any("SYNTHETIC" in note for note in replay.notes.estimated)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trace=stand_in"], "needs the sizes of a model, and model=auto states none"),
        (["trace.shape=wide"], "trace.shape=wide: must be one of own, model, card"),
        (["trace.gate_slope=2"], "only for a stand-in"),
        (["trace=stand_in", "model=olmoe_1b_7b", "policy=importance"], "lookahead"),
    ],
)
def test_what_is_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        build(compose_run(*words))


def test_only_a_replay_on_a_device_makes_one():
    with pytest.raises(UserError, match=r"trace\.shape=model: only `run` on a device"):
        open_trace(TraceConfig("demo", shape="model"))


def test_a_source_without_all_logits_is_refused():
    with pytest.raises(UserError, match="logits of all experts"):
        stand_in(recorded_trace(width=5), SHAPE)
