"""What is drawn from a card: same seed same bytes, any shape, block by block, and what it may not judge."""

from dataclasses import replace

import numpy as np
import pytest

import sim.cards.synthesis as synthesis
from policies.needs import Need
from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.cards.card import load_card
from sim.cards.routing import State, draw_block, draw_requests, routing_of
from sim.cards.synthesis import Wish, synthesise, synthetic_hash, synthetic_trace
from sim.config import TraceConfig
from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL
from traces.format.validation import validate


def test_the_same_seed_draws_the_same_bytes_and_another_others():
    card, wish = load_card("demo"), Wish("demo", requests=3, tokens=20, prompt_len=5)
    one, again = synthesise(card, wish), synthesise(card, wish)
    other = synthesise(card, replace(wish, seed=1))
    assert one.topk_ids.tobytes() == again.topk_ids.tobytes() and one.content_hash == again.content_hash
    assert one.topk_ids.tobytes() != other.topk_ids.tobytes() and one.content_hash != other.content_hash
    assert synthetic_hash(wish) == one.content_hash


@pytest.mark.parametrize("shape", [{}, {"layers": 3}, {"experts": 100, "top_k": 9}, {"layers": 9, "experts": 300}])
def test_a_trace_of_any_length_and_shape(shape):
    card = load_card("demo")
    trace = synthesise(card, Wish("demo", requests=2, tokens=11, prompt_len=4, **shape))
    validate(trace)
    own = {"layers": 6, "experts": 64, "top_k": 6} | shape
    assert trace.topk_ids.shape == (30, own["layers"], own["top_k"]) and trace.num_experts == own["experts"]
    assert (np.bincount(trace.phase, minlength=2) == [8, 22]).all() and trace.prompt_len.tolist() == [4, 4]
    assert trace.phase[:5].tolist() == [PREFILL] * 4 + [DECODE]
    assert trace.synthetic and trace.provenance["statement"].startswith("SYNTHETIC, drawn from a card (MEASURED")
    assert ("where the card has" in trace.provenance["statement"]) == bool(shape)


def test_lengths_are_those_of_the_card_where_no_knob_says():
    card = load_card("gpt_oss_20b")
    trace = synthesise(card, Wish("gpt_oss_20b", requests=40, layers=2))
    decodes = np.diff(trace.request_offsets)
    assert decodes.min() >= max(1, card.lengths.decode[0]) and decodes.max() <= card.lengths.decode[-1]
    assert len(set(decodes)) > 5
    assert not (trace.phase == PREFILL).any() and trace.prompt_len.max() > 0, "its prompts were not recorded"


def test_blocks_of_any_size_draw_the_same(monkeypatch):
    card, wish = load_card("demo"), Wish("demo", requests=3, tokens=50, prompt_len=7)
    whole = synthesise(card, wish)
    monkeypatch.setattr(synthesis, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(synthesis, "HELD_BYTES", 0)
    pieces = synthesise(card, wish)
    validate(pieces)
    assert np.array_equal(pieces.topk_ids, whole.topk_ids)
    assert np.array_equal(pieces.router_logits.values, whole.router_logits.values)


def test_one_token_by_hand():
    """A generator without noise but a slow part that never changes uses the same experts for every token."""
    made = load_card("demo").generator
    made = replace(made, token=[0.0] * 6, shift=[0.0] * 6, slow=[[0.0, 0.0, 0.0, 1.0]] * 6, again=0.0, coupling=0.0)
    ids = draw_requests(routing_of(made, 6, 64, 0), 0, np.array([10, 10]), 6)
    assert (ids[:10] == ids[0]).all() and (ids[10:] == ids[10]).all() and (ids[0] != ids[10]).any()


def test_tokens_of_one_kind_use_the_same_experts():
    made = replace(load_card("demo").generator, again=1.0, kinds=1, alike=1.0, slow=[[0.0] * 4] * 6, token=[1.0] * 6)
    ids = draw_requests(routing_of(replace(made, shift=[0.0] * 6), 6, 64, 0), 0, np.array([9]), 6)
    assert (ids == ids[0]).all()
    apart = draw_requests(routing_of(replace(made, shift=[0.0] * 6, again=0.0), 6, 64, 0), 0, np.array([9]), 6)
    assert (apart[1:] != apart[0]).any(axis=(1, 2)).all()


def test_scores_give_the_gate_the_slope_of_the_card():
    from traces.statistics.gate import gate_statistics

    card = load_card("demo")
    found = gate_statistics(synthesise(card, Wish("demo", requests=6, tokens=64, prompt_len=0)))
    assert found.gate_slope == pytest.approx(card.gate.slope, rel=0.1)
    assert np.abs(np.subtract(found.low_share, card.gate.low_share)).max() < 0.1


def test_experts_are_those_with_the_best_logits():
    trace = synthesise(load_card("demo"), Wish("demo", requests=1, tokens=9, prompt_len=0))
    best = np.argsort(-trace.router_logits.values, axis=-1, kind="stable")[..., :6]
    assert np.array_equal(best, trace.topk_ids)
    assert np.abs(trace.topk_weights.astype(np.float64).sum(axis=-1) - 1).max() < 0.01


def test_state_goes_on_where_a_block_ended():
    routing = routing_of(load_card("demo").generator, 6, 64, 3)
    whole = draw_requests(routing, 3, np.array([12]), 6)
    state, parts = State(routing), np.empty((12, 6, 6), np.uint16)
    for start in (0, 5, 6):
        draw_block(routing, 3, 0, state, parts[start : {0: 5, 5: 6, 6: 12}[start]])
    assert np.array_equal(whole, parts)


def test_a_run_says_that_it_is_synthetic():
    replay = build(compose_run("trace=synthetic", "card=demo", "trace.requests=2", "policy=lru", "engine=untimed"))
    assert replay.trace.num_requests == 2
    assert any("routing of demo: SYNTHETIC, drawn from a card" in note for note in replay.notes.estimated)


REFUSED = {
    ("card=gpt_oss_20b", "policy=importance_plus"): "needs full gate scores, and the trace carries no router logits",
    ("card=demo", "policy=moe_beyond"): "MoeBeyond learns which experts go together in a model",
    ("card=demo", "policy=finemoe"): "learns which experts go together in a model, and the routing is SYNTHETIC",
    ("card=demo", "policy=buddymoe"): "Buddy learns which experts go together",
    ("card=demo", "policy=importance"): "needs recorded lookahead logits",
    ("card=demo", "policy=lru", "policy/substitution=similarity"): "needs measured similarities of expert outputs",
    (): "trace.card is not set: trace=synthetic takes card=NAME",
    ("card=moon",): "card=moon: must be one of",
    ("card=demo", "trace.labels=[code]"): r"trace.labels=\['code'\]: must be null with trace=synthetic",
    ("card=demo", "trace.sample=2"): "trace.sample=2: must be null",
    ("card=demo", "trace.top_k=65"): "trace.top_k=65: must be at most the 64 experts",
    ("card=demo", "trace.tokens=0"): "trace.tokens=0: must be between 1 and 16777216",
    ("card=demo", "trace.seed=-1"): "trace.seed=-1: must be between 0",
    ("card=demo", "trace.requests=10000000", "trace.tokens=10000000"): "must be fewer, or shorter",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_it_may_not_judge_is_refused(words):
    with pytest.raises(UserError, match=REFUSED[words]):
        build(compose_run("trace=synthetic", *words))


def test_knobs_of_a_draw_belong_to_synthetic_traces():
    with pytest.raises(UserError, match=r"trace.tokens=5: only for trace=synthetic; trace.shape=own takes null"):
        TraceConfig("demo", tokens=5)


def test_rules_that_learn_popularity_learn_from_spare_requests():
    words = ("trace=synthetic", "card=demo", "trace.requests=2", "trace.fit_requests=2", "trace.tokens=8")
    replay = build(compose_run(*words, "policy=lru", "policy/eviction=frozen_popularity", "engine=untimed"))
    assert Need.FIT in replay.policy.needs() and replay.trace.num_requests == 2 and replay.others.num_requests == 2


def test_a_predictor_is_not_trained_on_one(capsys, tmp_path):
    from sim.__main__ import main

    assert main(["train-predictor", "trace=synthetic", "card=demo", f"out={tmp_path / 'p.safetensors'}"]) == 2
    assert "routing is SYNTHETIC: train it on a recorded trace" in capsys.readouterr().err


def test_the_last_traces_of_a_process_are_drawn_once():
    wish = Wish("demo", requests=1, tokens=3, prompt_len=0)
    assert synthetic_trace(wish) is synthetic_trace(wish)
