"""The next demand of every access, from a file, against a search that reads as the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.state import NEVER
from sim.workload.future import FutureUse
from sim.workload.steps import Schedule
from tests.support.random_traces import random_trace, routed
from tests.support.reference import passes


def blocks_of(schedule, rows, resets):
    """(rows, bounds, lockstep batch where that counts) of whole steps, a few rows at a time."""
    for block in schedule.blocks(rows):
        yield block.rows, block.bounds, block.group * resets


def future_of(trace, sequential=False, batch_size=1, rows_per_block=3, resets=False):
    schedule = Schedule(trace, batch_size)
    blocks = blocks_of(schedule, rows_per_block, resets)
    return FutureUse(lambda rows: trace.topk_ids[rows], blocks, trace.num_layers, trace.num_experts, sequential)


def searched(trace, sequential, batch_size):
    """([L, E] first demand, [T, L, K] next demand by replay position) by looking through all later accesses."""
    ids, now = np.asarray(trace.topk_ids), 0
    accesses, position = [], 0  # (now, layer, expert, position, rank)
    for rows in passes(trace, batch_size):
        for layer in range(trace.num_layers):
            now += not sequential
            for place, row in enumerate(rows):
                for rank, expert in enumerate(ids[row, layer].tolist()):
                    now += sequential
                    accesses.append((now, layer, expert, position + place, rank))
        position += len(rows)

    def next_of(layer, expert, after):
        return min((a[0] for a in accesses if a[1:3] == (layer, expert) and a[0] > after), default=NEVER)

    first = [[next_of(layer, expert, 0) for expert in range(trace.num_experts)] for layer in range(trace.num_layers)]
    then = np.zeros(ids.shape, np.int64)
    for now, layer, expert, place, rank in accesses:
        then[place, layer, rank] = next_of(layer, expert, now)
    return np.array(first), then


def test_a_b_a_by_hand():
    """Two layers: A B A in the first, C C C in the second; layer steps are numbered 1 to 6."""
    future = future_of(routed(np.array([[[0], [2]], [[1], [2]], [[0], [2]]]), 4, [0], [3]), rows_per_block=2)
    assert future.first.tolist() == [[1, 3, NEVER, NEVER], [NEVER, NEVER, 2, NEVER]]
    assert future.read(0, 3)[:, :, 0].tolist() == [[5, 4], [NEVER, 6], [NEVER, NEVER]]
    assert future.read(1, 1)[:, :, 0].tolist() == [[NEVER, 6]]


@pytest.mark.parametrize("rows_per_block", [1, 2, 9])
def test_what_follows_a_reset_is_not_looked_at(rows_per_block):
    """Requests A B A and B A, steps 1 to 5: nothing of the first is wanted again, though the second asks for both."""
    trace = routed(np.array([[[0]], [[1]], [[0]], [[1]], [[0]]]), 4, [0, 0], [3, 2])
    future = future_of(trace, rows_per_block=rows_per_block, resets=True)
    assert future.first.tolist() == future.first_of(0).tolist() == [[1, 2, NEVER, NEVER]]
    assert future.first_of(1).tolist() == [[5, 4, NEVER, NEVER]]
    assert future.read(0, 5).ravel().tolist() == [3, NEVER, NEVER, NEVER, NEVER]
    assert future_of(trace).read(0, 5).ravel().tolist() == [3, 4, 5, NEVER, NEVER]


def test_tokens_of_one_step_look_beyond_it_and_single_accesses_do_not():
    """A prompt of A A, then A: as one step both look at step 2; access by access the first looks at the second."""
    trace = routed(np.array([[[0]], [[0]], [[0]]]), 4, [2], [3])
    assert future_of(trace).read(0, 3).ravel().tolist() == [2, 2, NEVER]
    assert future_of(trace, sequential=True).read(0, 3).ravel().tolist() == [2, 3, NEVER]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4),
    sequential=st.booleans(),
    batch_size=st.integers(1, 3),
    rows_per_block=st.integers(1, 9),
)
def test_equals_a_search_through_all_later_accesses(seed, lengths, sequential, batch_size, rows_per_block):
    prompts, decodes = zip(*((p, max(d, 1 - p)) for p, d in lengths), strict=True)
    trace = random_trace(seed, prompts=prompts, decodes=decodes)
    first, then = searched(trace, sequential, batch_size)
    future = future_of(trace, sequential, batch_size, rows_per_block)
    np.testing.assert_array_equal(future.first, first)
    np.testing.assert_array_equal(future.read(0, trace.num_tokens), then)
    middle = trace.num_tokens // 2
    np.testing.assert_array_equal(future.read(middle, trace.num_tokens - middle), then[middle:])


def test_reading_past_the_end_is_an_error():
    with pytest.raises(IndexError):
        future_of(random_trace(0)).read(17, 2)
