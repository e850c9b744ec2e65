"""Each rule on a state small enough to check by hand, run as plain Python: no compiler involved."""

import numpy as np
import pytest

from policies.assignment.two_pointer import TwoPointer
from policies.eviction.belady import Belady
from policies.eviction.lru import Lru
from policies.eviction.score_window import ScoreWindow
from policies.prefetch.top_score import TopScore
from policies.state import CPU, DECODE, LINK, NEVER, PREFILL, RESIDENT, plain_state
from policies.substitution.score_band import ScoreBand
from traces.errors import UserError
from traces.score_bands import next_score


def decide(part, decision, state, memory=None, *more):
    memory = (
        np.zeros(part.memory_size(state.num_layers, state.num_experts, state.num_ranks)) if memory is None else memory
    )
    return getattr(part, decision)(state, memory, *more)


def routed_state(scores, ids, resident, phase=DECODE):
    """One layer; scores [B, E], ids [B, K], resident experts."""
    scores, ids = np.atleast_2d(np.array(scores, np.float32)), np.atleast_2d(np.array(ids, np.int32))
    state = plain_state(1, scores.shape[1], ids.shape[1], scores.shape[0])
    state.num_tokens, state.phase, state.has_scores = scores.shape[0], phase, 1
    state.scores[:], state.ids[:], state.executed_ids[:] = scores, ids, ids
    state.status[0, resident] = RESIDENT
    return state


def test_next_score_is_the_best_outside_the_top_k():
    assert next_score(np.array([0.4, 0.1, 0.3, 0.2], np.float32), np.array([0, 2]), 2) == pytest.approx(0.2)


def test_lru_orders_the_step_by_last_touch_and_steps_by_time():
    state = plain_state(1, 4, 2, 1)
    state.now, state.num_executed = 7, 2
    state.executed[:2] = [3, 1]
    decide(Lru(), "touch", state)
    assert state.priority[0].tolist() == [0.0, 7.5, 0.0, 7.0]


def test_belady_bypasses_only_what_is_needed_no_sooner_than_the_victim():
    state = plain_state(1, 3, 1, 1)
    state.next_use[0] = [10, 20, NEVER]
    assert decide(Belady(), "bypass", state, None, 1, 0, 0)
    assert not decide(Belady(), "bypass", state, None, 0, 0, 1)
    assert decide(Belady(), "bypass", state, None, 2, 0, 1)


def test_score_window_averages_the_last_n_decode_iterations_of_all_experts():
    part, state = ScoreWindow(window=2), routed_state([0.6, 0.3, 0.1], [0], [0])
    memory = np.zeros(part.memory_size(1, 3, 1))
    decide(part, "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.6, 0.3, 0.1])
    state.scores[0] = [0.2, 0.5, 0.3]
    decide(part, "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.4, 0.4, 0.2])
    state.phase = PREFILL
    state.scores[0] = [0.0, 0.0, 1.0]
    decide(part, "touch", state, memory)
    assert state.priority[0] == pytest.approx([0.4, 0.4, 0.2])
    state.phase = DECODE
    decide(part, "touch", state, memory)  # the first iteration has left the window
    assert state.priority[0] == pytest.approx([0.1, 0.25, 0.65])


# k = 3; S_4 = 0.12 (expert 3); alpha = 0.35: low-score active below 0.162, substitutes from 0.078 to 0.12
SCORES = [0.30, 0.15, 0.13, 0.12, 0.10, 0.09, 0.07, 0.04]


def test_missing_low_scores_take_the_best_resident_inside_the_band():
    state = routed_state(SCORES, [0, 1, 2], [0, 4, 5, 6])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 4, 5]


def test_the_next_expert_itself_may_substitute_unless_the_knob_says_no():
    state = routed_state(SCORES, [0, 1, 2], [3, 4])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 3, 4]
    state = routed_state(SCORES, [0, 1, 2], [3, 4])
    decide(ScoreBand(include_next=False), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 4, 2]


def test_resident_and_top_score_experts_are_kept():
    state = routed_state(SCORES, [0, 1, 2], [1, 3])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 3]  # 0 is missing but top-score


def test_what_finds_no_substitute_is_supplied_as_usual():
    state = routed_state(SCORES, [0, 1, 2], [6, 7])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 2]


def test_another_tokens_top_score_expert_may_substitute_even_for_an_earlier_token():
    second = [0.02, 0.02, 0.02, 0.02, 0.50, 0.20, 0.12, 0.10]  # top-score: 4, 5; S_4 = 0.10
    state = routed_state([SCORES, second], [[0, 1, 2], [4, 5, 6]], [])
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 4, 5]


def test_prefill_is_left_alone_unless_asked():
    state = routed_state(SCORES, [0, 1, 2], [3, 4], PREFILL)
    decide(ScoreBand(), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 2]
    decide(ScoreBand(during_prefill=True), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 3, 4]


def test_alpha_zero_substitutes_nothing():
    state = routed_state(SCORES, [0, 1, 2], [3, 4, 5])
    decide(ScoreBand(alpha=0.0), "substitute", state)
    assert state.executed_ids[0].tolist() == [0, 1, 2]


def test_two_pointer_balances_link_and_cpu():
    state = plain_state(1, 8, 5, 1)
    state.num_missing = 5
    state.missing_importance[:5] = [0.1, 0.5, 0.3, 0.2, 0.4]
    state.missing_load_ns[:5], state.missing_cpu_ns[:5] = 30, 10
    decide(TwoPointer(), "assign", state)
    # by importance: 1, 4, 2, 3, 0. Link takes 1 (30); CPU takes 0, 3, 2 (10, 20, 30 < 30 is false after the third)
    assert state.order[:5].tolist() == [1, 4, 2, 3, 0]
    assert state.side[:5].tolist() == [CPU, LINK, CPU, CPU, LINK]


def test_top_score_prefetches_the_predicted_top_scores_best_first():
    state = routed_state([SCORES, SCORES], [[0, 1, 2], [0, 1, 2]], [])
    state.num_layers, state.num_predicted, state.num_predicted_tokens = 2, 1, 2
    state.predicted[0, 0] = [
        0.1,
        0.2,
        0.1,
        0.4,
        0.05,
        0.05,
        0.05,
        0.05,
    ]  # top 3: 3, 1, 0; S_4 = 0.1: 3, 1 are top-score
    state.predicted[0, 1] = [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    decide(TopScore(), "choose", state)
    assert state.prefetch_expert[: state.num_prefetch].tolist() == [3, 0, 1]
    assert set(state.prefetch_layer[: state.num_prefetch].tolist()) == {1}
    state.num_prefetch = 0
    decide(TopScore(limit=1), "choose", state)
    assert state.prefetch_expert[: state.num_prefetch].tolist() == [3]


@pytest.mark.parametrize(
    "make", [lambda: ScoreBand(alpha=-0.1), lambda: TopScore(alpha=2), lambda: ScoreWindow(window=0)]
)
def test_knobs_out_of_range_are_refused_in_one_sentence(make):
    with pytest.raises(UserError, match=r"policy\.\w+\.\w+=.*: must be between"):
        make()
