"""The top scores that are prefetched and the window of scores against their definitions, written the slow way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.eviction.score_window import ScoreWindow
from policies.prefetch.top_score import TopScore
from policies.state import DECODE, plain_state

few_scores = st.lists(st.sampled_from([0.0, 1e-30, 0.1, 0.25, 0.3, 0.7, 1.0]), min_size=1, max_size=9)


def best_first(scores):
    return sorted(range(len(scores)), key=lambda expert: (-scores[expert], expert))


@given(few_scores, st.sampled_from([0.0, 0.2, 1.0]), st.integers(0, 3), st.data())
def test_one_row_twice_is_fetched_as_one_row(values, alpha, limit, data):
    ranks = data.draw(st.integers(1, len(values)))
    fetched = []
    for rows in (1, 2):
        state = plain_state(2, len(values), ranks, 2)
        state.num_predicted, state.num_predicted_tokens = 1, rows
        state.predicted[0] = np.array(values, np.float32)
        part = TopScore(alpha, limit)
        part.choose(state, np.full(len(values), 7.0))
        fetched.append(state.prefetch_expert[: state.num_prefetch].tolist())
    scores = np.array(values, np.float32)
    ranked = best_first(scores)
    edge = float(scores[ranked[ranks]]) if ranks < len(values) else 0.0
    top = [expert for expert in ranked[:ranks] if scores[expert] > 0 and scores[expert] >= (1.0 + alpha) * edge]
    assert fetched[0] == fetched[1] == (top[:limit] if limit else top)


def test_the_window_is_its_mean_after_many_steps():
    """To 2^-40 and no worse at the end than at the start: rounded scores add up exactly."""
    rng = np.random.default_rng(0)
    state, part = plain_state(1, 6, 2, 3), ScoreWindow(window=5)
    state.phase, state.num_tokens = DECODE, 3
    memory, seen = np.zeros(part.memory_size(1, 6, 2)), []
    for step in range(400):
        state.scores[:] = rng.random((3, 6)) ** rng.integers(1, 30)
        part.touch(state, memory)
        seen.append(state.scores.astype(np.float64).mean(0))
        direct = np.mean(seen[-5:], axis=0)
        assert np.abs(state.priority[0] - direct).max() <= 2.0**-40 + 3e-8, step  # plain Python adds up in float32
    assert memory[1:7].tolist() == memory[7:].reshape(5, 6).sum(0).tolist()
    assert state.priority[0].tolist() == (memory[1:7] / 5).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_step_of_one_token_enters_the_window_to_the_last_bit_of_its_unit(seed):
    state, part = plain_state(1, 4, 2, 1), ScoreWindow(window=3)
    state.phase, state.num_tokens = DECODE, 1
    rows = np.random.default_rng(seed).random((7, 4)).astype(np.float32)
    memory = np.zeros(part.memory_size(1, 4, 2))
    for row in rows:
        state.scores[0] = row
        part.touch(state, memory)
    units = np.rint(rows[-3:].astype(np.float64) * 2.0**40) * 2.0**-40
    assert state.priority[0].tolist() == (units.sum(0) / 3).tolist()
