"""Predictions that read the recorded future: exact ones, and a shadow model that errs at a stated rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from policies.prediction.drafts import Drafts
from policies.prediction.lookahead import Lookahead
from policies.prediction.oracle import Oracle
from policies.prediction.pre_gated import PreGated
from policies.prediction.shadow import Shadow
from policies.state import PREFILL
from tests.policies.hand import decode_state, predict
from traces.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in scalar")  # a hash wraps around


def state_with_future(routed, experts, layer=0, **knobs):
    """A decode step whose router chooses ``routed`` [B, L, K]."""
    routed = np.array(routed, np.int32)
    tokens, layers, ranks = routed.shape
    state = decode_state(layers, experts, ranks, tokens, depth=layers - 1)
    state.routed, state.layer, state.now = routed, layer, 1 + layer
    state.ids[:] = routed[:, layer]
    return state


def random_future(seed, tokens=64, layers=4, ranks=2, experts=8):
    rng = np.random.default_rng(seed)
    routed = np.argsort(rng.random((tokens, layers, experts)), axis=-1)[..., :ranks]
    return state_with_future(routed, experts)


TWO_TOKENS = [[[0, 1], [2, 3], [0, 3]], [[1, 2], [0, 1], [3, 2]]]


def test_pre_gated_names_each_tokens_experts_of_the_next_layer():
    state = state_with_future(TWO_TOKENS, 4)
    assert predict(PreGated(), state) == [[[0, 0, 1, 1], [1, 1, 0, 0]]]
    state.layer = 2
    assert predict(PreGated(), state) == []


def test_drafts_foretell_all_layers_of_a_step_that_verifies_them():
    state = state_with_future(TWO_TOKENS, 4)
    state.num_requests = 1
    next_layer, after = [[0, 0, 1, 1], [1, 1, 0, 0]], [[1, 0, 0, 1], [0, 0, 1, 1]]
    assert predict(Drafts(fidelity=1.0), state) == [next_layer, after]
    assert predict(Drafts(fidelity=1.0, layers=1), state) == [next_layer]
    wrong = np.array(predict(Drafts(fidelity=0.0), state))
    assert wrong.sum() == 8 and not (wrong * np.array([next_layer, after])).any()
    state.num_requests = 2  # a row each: nothing was drafted
    assert predict(Drafts(fidelity=1.0), state) == []
    state.num_requests, state.phase = 1, PREFILL
    assert predict(Drafts(fidelity=1.0), state) == []


def test_the_oracle_reaches_as_many_layers_as_asked_and_as_there_are():
    state = state_with_future(TWO_TOKENS, 4)
    next_layer, after = [[0, 0, 1, 1], [1, 1, 0, 0]], [[1, 0, 0, 1], [0, 0, 1, 1]]
    assert predict(Oracle(), state) == [next_layer]
    assert predict(Oracle(layers=9), state) == [next_layer, after]
    assert Oracle(layers=9).depth(3) == 2
    state.layer = 1
    assert predict(Oracle(layers=2), state) == [after]


def test_lookahead_copies_what_was_recorded_as_far_as_it_was():
    state = decode_state(3, 2, 1)
    state.lookahead[0, 0], state.lookahead[1, 0] = [0.25, 0.75], [0.5, 0.5]
    state.num_lookahead = 2
    assert predict(Lookahead(), state) == [[[0.25, 0.75]]]
    assert predict(Lookahead(layers=3), state) == [[[0.25, 0.75]], [[0.5, 0.5]]]


def test_a_shadow_that_is_always_right_is_an_oracle_and_silent_on_prompts():
    state = random_future(0)
    assert predict(Shadow(recall=1.0), state) == predict(Oracle(layers=3), state)
    state.phase = PREFILL
    assert predict(Shadow(recall=1.0), state) == []
    assert predict(Shadow(recall=1.0, during_prefill=True), state) == predict(Oracle(layers=3), state)


def test_a_shadow_that_is_always_wrong_names_only_others():
    """3 experts, 1 used by each token: one of the other two takes its place."""
    state = state_with_future([[[0], [1]]] * 200, 3)
    scores = np.array(predict(Shadow(recall=0.0, layers=1), state)[0])
    assert (scores[:, 1] == 0).all()
    assert (scores.sum(axis=1) == 1).all()
    assert chisquare(scores.sum(axis=0)[[0, 2]]).pvalue > 1e-3


def test_without_any_wrong_expert_an_error_names_nothing():
    state = state_with_future([[[0, 1], [0, 1]]], 2)
    assert predict(Shadow(recall=0.0), state) == [[[0, 0]]]


def kept(state, scores, layer):
    """[B, K] whether each routed expert of a layer is predicted."""
    return np.take_along_axis(scores, state.routed[:, layer].astype(np.int64), axis=-1) > 0


@pytest.mark.parametrize("recall", [0.25, 0.86, 0.9734])
def test_the_recall_of_a_shadow_is_what_is_asked(recall):
    """4 steps of 400 tokens, 3 layers and 4 experts each: the share found lies in the binomial's range."""
    found = []
    for step in range(4):
        state = random_future(step, tokens=400, ranks=4, experts=16)
        state.now += 4 * step
        predicted = [np.array(rows) for rows in predict(Shadow(recall=recall), state)]
        assert all((rows.sum(axis=1) == 4).all() for rows in predicted)
        found += [kept(state, rows, 1 + ahead) for ahead, rows in enumerate(predicted)]
    hits = np.concatenate(found)
    assert binomtest(int(hits.sum()), hits.size, recall).pvalue > 1e-3
    assert hits.size == 4 * 400 * 3 * 4


def test_wrong_experts_are_drawn_evenly():
    state = state_with_future([[[0, 1], [0, 1]]] * 600, 6)
    scores = np.array(predict(Shadow(recall=0.0, layers=1), state)[0])
    assert scores.sum(axis=0)[:2].tolist() == [0, 0]
    assert chisquare(scores.sum(axis=0)[2:]).pvalue > 1e-3


@given(seed=st.integers(0, 2**32), recall=st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_layer_announced_again_is_announced_alike(seed, recall):
    state, shadow = random_future(seed, tokens=5), Shadow(recall=recall)
    state.seed = seed
    first = predict(shadow, state)
    state.layer, state.now = 1, state.now + 1
    second = predict(shadow, state)
    assert second == first[1:]
    assert [[sum(row) for row in rows] for rows in first] == [[2] * 5] * 3


def test_another_step_or_seed_errs_elsewhere():
    state, shadow = random_future(0), Shadow(recall=0.5)
    one = predict(shadow, state)
    state.now += 4
    assert predict(shadow, state) != one
    state.now -= 4
    assert predict(shadow, state) == one
    state.seed = 1
    assert predict(shadow, state) != one


@pytest.mark.parametrize(
    "make",
    [lambda: Shadow(recall=1.1), lambda: Shadow(layers=0), lambda: Oracle(layers=0), lambda: Lookahead(layers=4)],
)
def test_knobs_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"policy\.prediction\.\w+=.*: must be between"):
        make()
