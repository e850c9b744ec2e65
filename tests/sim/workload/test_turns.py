"""Requests of several turns, and prompts whose first tokens were cached: which steps they make, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sim.metrics.step_table import StepTable
from sim.workload.steps import Schedule
from tests.support.random_traces import random_trace
from tests.support.replays import replay_of
from traces.format.validation import validate

PHASES = [0, 0, 1, 1, 0, 1, 0, 1, 1]
"""Rows 0 to 5: a prompt of 2, two tokens, a second turn's prompt of 1, one token; rows 6 to 8: a prompt, two tokens."""


def turns(cached=(0, 0)):
    trace = random_trace(0, prompts=(2, 1), decodes=(4, 2))
    prompt_len = np.array([2 + cached[0], 1 + cached[1]], np.int32)
    return replace(trace, phase=np.array(PHASES, np.uint8), prompt_len=prompt_len)


def steps(schedule, most=100):
    return [
        (block.rows[block.bounds[i] : block.bounds[i + 1]].tolist(), int(block.phase[i]), int(block.kv_tokens[i]))
        for block in schedule.blocks(most)
        for i in range(len(block))
    ]


def test_a_later_prompt_is_one_step_over_the_context_that_there_is():
    schedule = Schedule(turns())
    expected = [
        ([0, 1], 0, 2),
        ([2], 1, 3),
        ([3], 1, 4),
        ([4], 0, 5),
        ([5], 1, 6),
        ([6], 0, 1),
        ([7], 1, 2),
        ([8], 1, 3),
    ]
    assert steps(schedule) == steps(schedule, 1) == expected
    assert schedule.num_steps() == len(expected) and schedule.longest_prompt() == 2


def test_others_of_a_batch_wait_while_a_turn_is_prefilled():
    schedule = Schedule(turns(), 2)
    expected = [([0, 1], 0, 2), ([6], 0, 1), ([2, 7], 1, 5), ([3, 8], 1, 7), ([4], 0, 5), ([5], 1, 6)]
    assert steps(schedule) == expected
    assert schedule.num_steps() == len(expected)


def test_a_cached_prefix_is_attended_to_and_not_computed():
    trace = turns((3, 0))
    validate(trace)
    assert trace.positions().tolist() == [3, 4, 5, 6, 7, 8, 0, 1, 2]
    assert [kv for _, _, kv in steps(Schedule(trace))] == [5, 6, 7, 8, 9, 1, 2, 3]
    whole, cached = (next(iter(Schedule(one).blocks())).attended_pairs[0] for one in (turns(), trace))
    assert (whole, cached) == (1 + 2, 4 + 5)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_engines_agree_on_turns_and_the_first_token_is_that_of_the_first_turn(batch_size):
    tables = [
        StepTable(replay_of(turns((3, 0)), "lru", engine=name, batch_size=batch_size, slots_per_layer=3)).run()
        for name in ("simpy", "compiled")
    ]
    assert tables[0].array().tolist() == tables[1].array().tolist()
    requests = tables[0].requests()
    assert requests["decode_steps"].tolist() == [3, 2]
    assert requests["ttft_s"][0] == pytest.approx(tables[0].columns()["latency_ns"][0] / 1e9)
    assert (requests["ttft_s"] < requests["latency_s"]).all()
