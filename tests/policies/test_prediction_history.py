"""Predictions from what was used before, worked out by hand in plain Python."""

import numpy as np
import pytest

from policies.prediction.activation_matrix import ActivationMatrix
from policies.prediction.expert_map import ExpertMap
from policies.prediction.popularity import Popularity
from policies.prediction.previous_token import PreviousToken
from policies.state import PREFILL
from tests.policies.hand import decode_state, empty_memory, predict
from tests.support.random_traces import random_trace, routed
from traces.errors import UserError


def pass_through(part, state, memory, *layers):
    """Run one step through all layers, ``layers`` [L][B, K] the routed experts -> predictions made at each layer."""
    found = []
    for layer, ids in enumerate(layers):
        rows = np.atleast_2d(ids)
        state.layer, state.num_tokens = layer, rows.shape[0]
        state.ids[: rows.shape[0]] = rows
        state.now += 1
        found.append(predict(part, state, memory))
    return found


def test_previous_token_repeats_what_the_last_token_used_in_the_layers_ahead():
    part, state = PreviousToken(layers=2), decode_state(3, 4, 2)
    memory = empty_memory(part, state)
    assert pass_through(part, state, memory, [0, 1], [1, 2], [2, 3]) == [[], [], []]
    first, second, third = pass_through(part, state, memory, [3, 0], [3, 1], [3, 2])
    assert first == [[[0, 1, 1, 0]], [[0, 0, 1, 1]]]
    assert second == [[[0, 0, 1, 1]]]
    assert third == []
    assert pass_through(part, state, memory, [0, 1], [0, 1], [0, 1])[0] == [[[0, 1, 0, 1]], [[0, 0, 1, 1]]]


def test_previous_token_gives_the_share_of_a_batch_and_forgets_a_finished_group():
    part, state = PreviousToken(), decode_state(2, 4, 1, tokens=2)
    memory = empty_memory(part, state)
    pass_through(part, state, memory, [[0], [1]], [[2], [3]])
    assert pass_through(part, state, memory, [[0], [1]], [[2], [2]])[0] == [[[0, 0, 0.5, 0.5]]]
    assert pass_through(part, state, memory, [[0]], [[1]])[0] == [[[0, 0, 1, 0]]]
    state.group = 1
    assert pass_through(part, state, memory, [[0]], [[1]])[0] == []


def test_the_first_decode_step_follows_the_last_token_of_every_prompt():
    part, state = PreviousToken(), decode_state(2, 4, 1, tokens=3)
    memory = empty_memory(part, state)
    state.phase = PREFILL
    assert pass_through(part, state, memory, [[0], [0], [0]], [[1], [1], [2]]) == [[], []]
    assert pass_through(part, state, memory, [[0], [0]], [[1], [3]]) == [[], []]
    state.phase = 1
    assert pass_through(part, state, memory, [[0], [0]], [[0], [0]])[0] == [[[0, 0, 0.5, 0.5]]]
    assert pass_through(part, state, memory, [[0], [0]], [[0], [0]])[0] == [[[1, 0, 0, 0]]]


def test_popularity_is_the_share_of_tokens_over_all_requests():
    part, state = Popularity(), decode_state(2, 3, 2, tokens=2)
    memory = empty_memory(part, state)
    assert pass_through(part, state, memory, [[0, 1], [0, 1]], [[0, 1], [0, 2]]) == [[], []]
    state.group = 1
    assert pass_through(part, state, memory, [[0, 1]], [[0, 1]])[0] == [[[1, 0.5, 0.5]]]
    assert pass_through(part, state, memory, [[0, 1]], [[0, 1]])[0][0][0] == pytest.approx([1, 2 / 3, 1 / 3])


def test_popularity_may_begin_with_other_requests_and_stop_there():
    others = routed(np.array([[[0], [1]], [[0], [2]], [[0], [2]], [[0], [2]]]), 3, [0], [4])
    part, state = Popularity(online=False, fitted=True), decode_state(2, 3, 1)
    memory = part.fit(others)
    assert part.all_needs() == {"fit"}
    for _ in range(2):
        assert pass_through(part, state, memory, [[0]], [[0]])[0] == [[[0, 0.25, 0.75]]]
    with pytest.raises(UserError, match="one of them must be true"):
        Popularity(online=False)


# Two sequences of one token each: A uses experts 0, 1, 2 in its layers, B uses 1, 2, 2.
TWO = routed(np.array([[[0], [1], [2]], [[1], [2], [2]]]), 3, [0, 0], [1, 1])


def test_activation_matrix_weighs_the_later_rows_of_the_nearest_sequence():
    part, state = ActivationMatrix(collection=2, online=False), decode_state(3, 3, 1)
    memory = part.fit(TWO)
    first, second, third = pass_through(part, state, memory, [1], [2], [0])
    # B is nearest; decay 1 - 1/3 for the next layer, 1 - 2/3 for the one after it
    assert first[0][0] == pytest.approx([0, 0, 2 / 3])
    assert first[1][0] == pytest.approx([0, 0, 1 / 3])
    assert second[0][0] == pytest.approx([0, 0, 2 / 3])
    assert third == []


def test_activation_matrix_normalises_rows_and_counts_all_tokens_of_a_batch():
    ids = np.array([[[0], [1]], [[0], [1]], [[0], [2]], [[0], [1]]])  # one sequence: layer 1 uses 1 three times, 2 once
    part, state = ActivationMatrix(collection=1, online=False), decode_state(2, 3, 1, tokens=2)
    memory = part.fit(routed(ids, 3, [0], [4]))
    found = pass_through(part, state, memory, [[0], [2]], [[0], [1]])
    assert found[0][0][0] == pytest.approx([0, 0.75 / 2, 0.25 / 2])
    assert memory[2:8].tolist() == [1, 0, 1, 1, 1, 0]


def test_a_layer_not_used_yet_leaves_the_match_to_the_earlier_ones():
    """After layer 0 = 0 (A) and layer 1 = 2 (B) both match in one layer of two: the first wins; layer 2 decides."""
    part, state = ActivationMatrix(collection=2, online=False), decode_state(3, 3, 1)
    memory = part.fit(TWO)
    second = pass_through(part, state, memory, [0], [2], [2])[1]
    assert second[0][0] == pytest.approx([0, 0, 2 / 3])
    matched = memory[2 + 9 : 2 + 9 + 2]
    assert matched.tolist() == [2, 0]


def test_the_code_compares_only_layers_it_has_not_reached_and_predicts_everything():
    knobs = {"code_decay": True, "later_layers_only": True, "epsilon": 0.25}
    part, state = ActivationMatrix(collection=2, online=False, **knobs), decode_state(3, 3, 1)
    memory = part.fit(TWO)
    # first token: no count of later layers yet, so the first sequence (A) wins although layer 0 is B's
    first = pass_through(part, state, memory, [1], [2], [2])[0]
    assert first[0][0] == pytest.approx([0.25 * 3 / 4, 1.25 * 3 / 4, 0.25 * 3 / 4])
    assert first[1][0] == pytest.approx([0.25 / 2, 0.25 / 2, 1.25 / 2])
    # second token: the first one's layers 1 and 2 are B's, although layer 0 is now A's
    second = pass_through(part, state, memory, [0], [1], [2])[0]
    assert second[0][0] == pytest.approx([0.25 * 3 / 4, 0.25 * 3 / 4, 1.25 * 3 / 4])


def test_a_finished_sequence_joins_and_replaces_the_least_matched():
    part, state = ActivationMatrix(collection=2, fitted=False), decode_state(2, 4, 1)
    memory = empty_memory(part, state)
    assert part.all_needs() == frozenset()
    assert pass_through(part, state, memory, [0], [1]) == [[], []]
    for group, route in ((1, ([0], [1])), (2, ([0], [1])), (3, ([3], [3]))):
        state.group = group
        found = pass_through(part, state, memory, *route)
        assert found[0][0][0] == pytest.approx([0, 0.5, 0, 0])  # the first sequence, or another like it
    # three finished sequences went through two places: the second, never matched since it joined, was replaced
    state.group = 4
    found = pass_through(part, state, memory, [3], [3])
    assert memory[1] == 2
    assert found[0][0][0] == pytest.approx([0, 0, 0, 0.5])


def map_step(part, state, memory, rows):
    """One step of one token with the gate scores ``rows`` [L, E] -> predictions made at each layer."""
    found = []
    for layer, scores in enumerate(rows):
        state.layer, state.scores[0] = layer, scores
        found.append(predict(part, state, memory))
    return found


A = [[1.0, 0.0], [1.0, 0.0], [0.75, 0.25]]
B = [[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]]


def test_expert_map_predicts_from_the_token_with_the_nearest_trajectory():
    part, state = ExpertMap(capacity=2, distance=2, fitted=False), decode_state(3, 2, 1)
    memory = empty_memory(part, state)
    assert map_step(part, state, memory, A) == [[], [], []]
    map_step(part, state, memory, B)
    # layer 0 stands in for the embedding and predicts all later layers; cosine of [.6, .8] with B is .8
    first, second, third = map_step(part, state, memory, [[0.6, 0.8], [1.0, 0.0], [0.5, 0.5]])
    assert first[0][0] == pytest.approx([0.8, 0.0])
    assert first[1][0] == pytest.approx([0.8 * 0.25, 0.8 * 0.75])
    assert second == []  # layer 1 + 2 does not exist
    assert third == []


def test_expert_map_with_distance_1_follows_the_whole_trajectory():
    part, state = ExpertMap(capacity=2, distance=1, fitted=False), decode_state(3, 2, 1)
    memory = empty_memory(part, state)
    map_step(part, state, memory, A)
    map_step(part, state, memory, B)
    second = map_step(part, state, memory, [[0.6, 0.8], [0.0, 1.0], [0.5, 0.5]])[1]
    # (.8 + 0) / (sqrt 2 * sqrt 2) against B, .6 / 2 against A
    assert second[0][0] == pytest.approx([0.4 * 0.25, 0.4 * 0.75])


def test_layers_nearer_than_the_distance_are_left_at_zero():
    part, state = ExpertMap(capacity=1, distance=2, fitted=False), decode_state(4, 2, 1)
    memory = empty_memory(part, state)
    rows = [[1.0, 0.0]] * 4
    map_step(part, state, memory, rows)
    second = map_step(part, state, memory, rows)[1]
    assert second == [[[0.0, 0.0]], [[1.0, 0.0]]]


def test_a_full_store_gives_up_the_most_similar_map():
    part, state = ExpertMap(capacity=2, distance=1, fitted=False), decode_state(3, 2, 1)
    memory = empty_memory(part, state)
    near_b = [[0.1, 0.9], [1.0, 0.0], [0.25, 0.75]]
    for rows in (A, B, near_b):
        map_step(part, state, memory, rows)
    assert memory[-12:].tolist() == pytest.approx(np.ravel([A, near_b]).tolist())


def test_prompts_do_not_join_the_store():
    part, state = ExpertMap(capacity=2, distance=1, fitted=False), decode_state(3, 2, 1)
    memory = empty_memory(part, state)
    state.phase = PREFILL
    map_step(part, state, memory, A)
    assert memory[0] == 0


@pytest.mark.parametrize("capacity", [5, 40])
def test_a_fitted_store_holds_gate_scores_of_other_tokens(capacity):
    trace = random_trace(0)
    memory = ExpertMap(capacity=capacity).fit(trace)
    store = memory[-capacity * 24 :].reshape(capacity, 24)
    scores = trace.gate_scores(0, trace.num_tokens).reshape(-1, 24)
    held = min(capacity, trace.num_tokens)
    assert memory[0] == held
    assert all(np.isclose(row, scores, atol=1e-6).all(axis=1).any() for row in store[:held])
    assert np.isclose(store[:held].sum(axis=1), 3).all()  # 3 layers, each summing to 1


def test_online_and_fitted_stores_replace_alike():
    trace = random_trace(4)
    fitted = ExpertMap(capacity=3).fit(trace)
    part, state = ExpertMap(capacity=3, fitted=False), decode_state(3, 8, 2)
    memory = empty_memory(part, state)
    for row in range(trace.num_tokens):
        map_step(part, state, memory, trace.gate_scores(row, row + 1)[0])
    assert memory[-3 * 24 :] == pytest.approx(fitted[-3 * 24 :], abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PreviousToken(layers=0),
        lambda: Popularity(layers=0),
        lambda: ActivationMatrix(collection=0),
        lambda: ActivationMatrix(epsilon=-1),
        lambda: ActivationMatrix(fitted=False, online=False),
        lambda: ExpertMap(capacity=0),
        lambda: ExpertMap(distance=0),
        lambda: ExpertMap(fitted=False, online=False),
    ],
)
def test_knobs_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"policy\.prediction\.\w+="):
        make()
