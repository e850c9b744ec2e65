"""Steps that verify drafts: which rows they hold, what stays of them, worked out by hand and as properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.state import DECODE
from sim.config import SpeculateConfig
from sim.metrics.drafts import break_even, expected_tokens, token_times
from sim.metrics.step_table import StepTable
from sim.workload.recorded_drafts import require_counts
from sim.workload.steps import Schedule
from tests.support.random_traces import random_trace
from tests.support.replays import replay_of
from traces.errors import UserError


def schedule_of(trace, tokens, acceptance=0.7, batch_size=1, seed=0, decay=1.0):
    return Schedule(trace, batch_size, speculate=SpeculateConfig(tokens, acceptance, decay), seed=seed)


def steps(schedule, most=100):
    """(rows, of them those that stay, kv tokens, pairs) of every decode step."""
    found = []
    for block in schedule.blocks(most):
        cuts = block.bounds[1:-1]
        for i, (rows, kept) in enumerate(
            zip(np.split(block.rows, cuts), np.split(block.accepted(), cuts), strict=True)
        ):
            if block.phase[i] == DECODE:
                amounts = int(block.kv_tokens[i]), int(block.attended_pairs[i])
                found.append((rows.tolist(), rows[kept].tolist(), *amounts))
    return found


def test_all_drafts_accepted():
    """A prompt of 2 rows, then 7: steps of 3, the last one has no draft left."""
    found = steps(schedule_of(random_trace(0, prompts=(2,), decodes=(7,)), 2, 1.0))
    assert found == [
        ([2, 3, 4], [2, 3, 4], 5, 3 + 4 + 5),
        ([5, 6, 7], [5, 6, 7], 8, 6 + 7 + 8),
        ([8], [8], 9, 9),
    ]


def test_all_drafts_rejected():
    """Rejected drafts come again; at the end of the request there are fewer."""
    found = steps(schedule_of(random_trace(0, prompts=(2,), decodes=(4,)), 2, 0.0))
    assert [(rows, kept) for rows, kept, _, _ in found] == [
        ([2, 3, 4], [2]), ([3, 4, 5], [3]), ([4, 5], [4]), ([5], [5]),
    ]  # fmt: skip
    assert [kv for _, _, kv, _ in found] == [5, 6, 6, 6]


def test_the_first_rejected_draft_ends_it():
    """The second of three drafts is never accepted, so each step stays with two rows of four."""
    found = steps(schedule_of(random_trace(0, prompts=(1,), decodes=(7,)), 3, [1.0, 0.0, 1.0]))
    assert [(rows, len(kept)) for rows, kept, _, _ in found] == [
        ([1, 2, 3, 4], 2), ([3, 4, 5, 6], 2), ([5, 6, 7], 2), ([7], 1),
    ]  # fmt: skip


def test_drafts_stop_where_the_next_turn_begins():
    phases = [0, 0, 1, 1, 0, 1, 1]
    trace = replace(random_trace(0, prompts=(2,), decodes=(5,)), phase=np.array(phases, np.uint8))
    assert [rows for rows, *_ in steps(schedule_of(trace, 4, 1.0))] == [[2, 3], [5, 6]]


def test_requests_of_a_batch_bring_their_drafts_into_one_step():
    """Request 0: rows 0 to 2; request 1: rows 3 to 4. K and V of each are read once."""
    trace = random_trace(0, prompts=(0, 0), decodes=(3, 2))
    found = steps(schedule_of(trace, 1, 1.0, batch_size=2))
    assert found == [([0, 1, 3, 4], [0, 1, 3, 4], 2 + 2, (1 + 2) + (1 + 2)), ([2], [2], 3, 3)]
    (block,) = schedule_of(trace, 1, 1.0, batch_size=2).blocks()
    assert block.num_requests().tolist() == [2, 1] and block.passes().tolist() == [1, 0]
    assert block.num_tokens().tolist() == [4, 1]


def test_rejected_drafts_may_take_the_rows_of_other_tokens_of_the_request():
    """What stays, and how much K and V is read, is the same; rows of rejected drafts are drawn from their request."""
    trace = random_trace(0, prompts=(2, 3), decodes=(30, 40))
    recorded, other = (
        Schedule(trace, 2, speculate=SpeculateConfig(3, 0.5, rejected=rejected), seed=1)
        for rejected in ("recorded", "other")
    )
    assert [found[1:] for found in steps(recorded)] == [found[1:] for found in steps(other)]
    drawn, own = [], []
    for one, two in zip(recorded.blocks(), other.blocks(), strict=True):
        assert one.rows[one.accepted()].tolist() == two.rows[two.accepted()].tolist()
        drawn += two.rows[~two.accepted()].tolist()
        own += one.rows[~one.accepted()].tolist()
        assert (np.searchsorted(trace.request_offsets, two.rows, side="right") - 1 == two.requests).all()
    assert drawn != own and len(set(drawn)) > 20


cases = st.fixed_dictionaries(
    {
        "tokens": st.integers(0, 7),
        "acceptance": st.floats(0, 1),
        "decay": st.sampled_from([1.0, 0.5]),
        "batch_size": st.integers(1, 3),
        "seed": st.integers(0, 2**63 - 1),
    }
)


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(1, 5))
def test_every_row_stays_exactly_once_in_order(case, most):
    trace = random_trace(1, prompts=(2, 0, 1), decodes=(9, 4, 6))
    schedule = schedule_of(trace, **case)
    rows, kept = [], []
    for block in schedule.blocks(most):
        rows += block.rows.tolist()
        kept += block.rows[block.accepted()].tolist()
        assert len(block.rows) <= max(most, schedule.max_tokens())
    assert sorted(kept) == list(range(trace.num_tokens))
    for request in range(3):
        own = [row for row in kept if trace.request_offsets[request] <= row < trace.request_offsets[request + 1]]
        assert own == sorted(own)
    whole = [row for block in schedule.blocks() for row in block.rows.tolist()]
    assert rows == whole  # however it is cut into blocks
    assert schedule.num_steps() == sum(len(block) for block in schedule.blocks(most))


def test_draws_belong_to_request_and_place_whatever_else_is_replayed():
    trace = random_trace(2, prompts=(0, 0, 0), decodes=(40, 40, 40))
    alone = steps(schedule_of(trace.take_requests(np.array([1]), "one"), 3, 0.5, seed=7))
    whole = [found for found in steps(schedule_of(trace, 3, 0.5, seed=7)) if 40 <= found[0][0] < 80]
    assert [[row + 40 for row in kept] for _, kept, *_ in alone] == [kept for _, kept, *_ in whole]
    assert steps(schedule_of(trace, 3, 0.5, seed=8)) != steps(schedule_of(trace, 3, 0.5, seed=7))


def test_as_many_drafts_are_accepted_as_their_chances_say():
    """2000 rows at chances .8 and .4: 1 + .8 + .8 * .4 = 2.12 tokens per step, within 5 standard errors (0.1)."""
    found = steps(schedule_of(random_trace(3, prompts=(0,), decodes=(2000,), num_layers=1), 2, 0.8, decay=0.5), 4096)
    assert 2000 / len(found) == pytest.approx(expected_tokens([0.8, 0.4]), abs=0.12)


def test_expected_tokens_and_break_even_by_hand():
    assert expected_tokens([]) == 1.0
    assert expected_tokens([0.5, 0.5]) == 1.75
    assert break_even(1.75, 2, 1.0) == pytest.approx(0.5)
    assert break_even(1.0 + 0.8 + 0.8 * 0.4, 2, 0.5) == pytest.approx(0.8)
    assert break_even(0.9, 2, 1.0) == 0.0
    assert break_even(3.0, 2, 1.0) == pytest.approx(1.0)
    assert break_even(3.1, 2, 1.0) is None


def test_times_of_tokens_sum_to_those_of_their_steps():
    """A step of 10 ns accepts 3 tokens of one request; one of 7 ns two tokens of two requests, 7 ns each."""
    found = token_times(np.array([10, 7]), np.array([1, 2]), np.array([3, 2]))
    assert found.tolist() == [4, 3, 3, 7, 7]


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"tokens": -1}, "tokens=-1: must be between 0 and 64"),
        ({"tokens": 65}, "tokens=65"),
        ({"tokens": 1, "acceptance": 1.5}, "acceptance=1.5: must be between 0 and 1"),
        ({"tokens": 2, "acceptance": [0.5]}, "speculate.tokens=2"),
        ({"tokens": 1, "acceptance": [True]}, "must be between"),
        ({"tokens": 1, "acceptance": "often"}, "must be a probability"),
        ({"tokens": 1, "acceptance": "recorded", "decay": 0.5}, "decay=0.5: recorded acceptance"),
        ({"tokens": 1, "acceptance": "recorded", "draft": "model"}, "state speculate.draft_bytes"),
        ({"tokens": 1, "decay": 0.0}, "decay=0.0: must be above 0"),
        ({"tokens": 1, "rejected": "random"}, "must be recorded or other"),
        ({"tokens": 1, "draft": "eagle"}, "must be one of ngram, mtp, model"),
        ({"tokens": 1, "draft": "model"}, "state speculate.draft_bytes"),
        ({"tokens": 1, "draft_bytes": 0}, "draft_bytes=0"),
        ({"tokens": 1, "draft_layers": 0}, "draft_layers=0"),
    ],
)
def test_wrong_knobs_are_refused_in_a_sentence(knobs, words):
    with pytest.raises(UserError, match="speculate") as refused:
        SpeculateConfig(**knobs)
    assert words in str(refused.value)


COUNTED = [[255, 0], [3, 1], [255, 0], [2, 2], [255, 0], [255, 0], [0, 0], [3, 0]]
"""A prompt row, then steps of 3 drafts, 2 drafts, none, and 3 where the request ends before any of them."""


def counted_trace(counts=COUNTED):
    return replace(random_trace(0, prompts=(1,), decodes=(7,)), draft_counts=np.array(counts, np.uint8))


def test_recorded_drafts_by_hand():
    """Row 1 with 3 drafts, of which row 2 stays; row 3 with 2, both stay; row 6 with none; row 7 is the last one."""
    found = steps(schedule_of(counted_trace(), 3, "recorded"))
    assert [(rows, kept) for rows, kept, *_ in found] == [
        ([1, 2, 3, 4], [1, 2]), ([3, 4, 5], [3, 4, 5]), ([6], [6]), ([7], [7]),
    ]  # fmt: skip
    assert [kv for _, _, kv, _ in found] == [5, 6, 7, 8]
    more = steps(schedule_of(counted_trace(), 9, "recorded", seed=5))
    assert more == found  # nothing is drawn, and no step has more drafts than were recorded


def test_fewer_drafts_than_recorded_need_counts_at_every_row():
    """With one draft the step of row 3 keeps rows 3 and 4, so that one begins at row 5."""
    with pytest.raises(UserError, match=r"speculate\.tokens=1 a step begins at row 5.*up to 3 drafts"):
        require_counts(schedule_of(counted_trace(), 1, "recorded"))
    everywhere = counted_trace([[255, 0], [3, 1], [1, 1], [2, 2], [1, 0], [1, 1], [0, 0], [3, 0]])
    require_counts(schedule_of(everywhere, 1, "recorded"))
    assert [rows for rows, *_ in steps(schedule_of(everywhere, 1, "recorded"))] == [[1, 2], [3, 4], [5, 6], [7]]


def test_recorded_acceptance_needs_a_trace_that_counts_drafts():
    with pytest.raises(UserError, match="holds no draft_counts"):
        replay_of(random_trace(0), "lru", slots_per_layer=3, speculate={"tokens": 1, "acceptance": "recorded"})
    replay_of(random_trace(0), "lru", slots_per_layer=3, speculate={"tokens": 0, "acceptance": "recorded"})


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
def test_recorded_drafts_are_what_a_replay_measures(engine):
    """Of 3 + 2 drafts 3 are accepted; 7 tokens in 4 steps."""
    draft = {"tokens": 3, "acceptance": "recorded", "draft": "ngram"}
    table = StepTable(replay_of(counted_trace(), "lru", engine=engine, slots_per_layer=3, speculate=draft)).run()
    metrics = table.metrics()
    assert metrics["acceptance_rate"] == pytest.approx(3 / 5)
    assert metrics["accepted_tokens_per_step"] == pytest.approx(7 / 4)
    assert table.columns()["accepted_drafts"].tolist() == [0, 1, 2, 0, 0]


def test_counts_belong_to_their_rows_in_parts_of_a_trace():
    trace = counted_trace()
    twice = random_trace(1, prompts=(1, 1), decodes=(7, 7))
    twice = replace(twice, draft_counts=np.concatenate([trace.draft_counts] * 2))
    second = twice.take_requests(np.array([1]), "second")
    assert second.draft_counts.tolist() == COUNTED
    assert steps(schedule_of(second, 3, "recorded")) == steps(schedule_of(trace, 3, "recorded"))
