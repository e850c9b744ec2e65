"""Turns of chats as requests of their own: rows, contexts, pauses and times, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sim.assembly.build import in_session
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, SessionConfig
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import COLUMNS, StepTable
from sim.workload.chats import as_session
from sim.workload.steps import Schedule
from tests.sim.workload.test_turns import steps, turns
from tests.support.random_traces import random_trace
from tests.support.replays import POLICIES, machine
from traces.errors import UserError


def cut(trace, **session):
    return as_session(trace, SessionConfig(**session))[0]


def test_the_defaults_are_the_trace_itself():
    trace = turns()
    assert as_session(trace, SessionConfig()) == (trace, [], [])


def test_a_turn_attends_to_what_the_turns_before_it_left():
    trace = cut(turns((3, 0)), by_turn=True)
    assert trace.request_turns.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert np.diff(trace.request_offsets).tolist() == [4, 2, 3]
    assert trace.contexts().tolist() == [3, 7, 0]
    recorded = turns((3, 0))
    assert np.array_equal(trace.topk_ids, recorded.topk_ids) and np.array_equal(trace.phase, recorded.phase)
    assert [kv for *_, kv in steps(Schedule(trace))] == [kv for *_, kv in steps(Schedule(recorded))]


def test_without_its_kv_cache_a_turn_prefills_the_whole_chat_again():
    trace = cut(turns(), keep="experts")
    rows = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(trace.topk_ids, turns().topk_ids[rows])
    assert trace.phase.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1]
    assert trace.contexts().tolist() == [0, 0, 0]
    assert [(len(rows), phase, kv) for rows, phase, kv in steps(Schedule(trace))] == [
        (2, 0, 2), (1, 1, 3), (1, 1, 4), (5, 0, 5), (1, 1, 6), (1, 0, 1), (1, 1, 2), (1, 1, 3),
    ]  # fmt: skip


def test_tokens_without_rows_are_said_to_be_missing_from_a_lost_context():
    _, _, said = as_session(turns((3, 0)), SessionConfig(keep="none"))
    assert any(sentence.startswith("3 tokens of lost KV caches have no recorded rows") for sentence in said)


def labelled(labels="abab"):
    trace = random_trace(1, prompts=(2,) * len(labels), decodes=(3,) * len(labels))
    return replace(trace, request_labels=tuple(labels))


def test_requests_of_one_label_in_a_row_become_the_turns_of_a_chat():
    made, estimated, _ = as_session(labelled("ababa"), SessionConfig(turns=2))
    assert made.request_turns.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]]
    assert made.request_labels == ("a chat 0", "a chat 0", "b chat 1", "b chat 1", "a chat 2")
    assert made.contexts().tolist() == [0, 5, 0, 5, 0]
    first = [0, 10, 5, 15, 20]
    assert np.array_equal(made.topk_ids, labelled("ababa").topk_ids[np.concatenate([np.arange(5) + a for a in first])])
    assert "SYNTHETIC chats" in estimated[0]


def test_interleaved_chats_take_turns():
    made = cut(labelled(), turns=2, interleave=True)
    assert made.request_turns.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert made.contexts().tolist() == [0, 0, 5, 5]


def test_the_first_recorded_rows_count_as_a_prompt():
    made, said, _ = as_session(random_trace(0, prompts=(4, 0), decodes=(1, 6)), SessionConfig(prompt_rows=5))
    assert made.num_requests == 1 and made.phase.tolist() == [0] * 5 + [1]
    assert made.contexts().tolist() == [0] and said[-1] == "1 of 2 requests have no more than 5 rows: left out"
    with pytest.raises(UserError, match="prompt_rows=6: must be below 6, the rows of the longest request"):
        cut(random_trace(0, prompts=(4, 0), decodes=(1, 6)), prompt_rows=6)
    with pytest.raises(UserError, match="prompt_rows=1: request 0 has several turns"):
        cut(turns(), prompt_rows=1)


def replayed(trace, engine, policy="prefetch", cache=None, timeline=False, **session):
    knobs = SessionConfig(**session)
    run = RunConfig(engine=engine, timeline=timeline)
    hardware = machine(gpu_memory_bytes_per_s=2e9)
    setup = in_session(
        DeviceSetup(POLICIES[policy], hardware, CacheConfig(slots_per_layer=2, **(cache or {})), run), knobs
    )
    return assemble(as_session(trace, knobs)[0], setup)


@pytest.mark.parametrize("policy", ["lru", "prefetch", "importance", "belady"])
@pytest.mark.parametrize(
    "session",
    [{"by_turn": True}, {"turns": 2}, {"turns": 3, "keep": "kv"}, {"turns": 2, "keep": "none", "think_s": 1e-6},
     {"turns": 2, "interleave": True, "keep": "experts"}, {"turns": 2, "think_s": 2.5e-7}],
)  # fmt: skip
def test_engines_agree_on_chats(policy, session):
    tables = [StepTable(replayed(labelled("aabbab"), name, policy, **session)).run() for name in ("simpy", "compiled")]
    assert np.array_equal(tables[0].array(), tables[1].array())
    assert tables[0].metrics() == tables[1].metrics()


def test_while_a_user_thinks_copies_go_on_and_no_turn_grows_longer():
    at_once = StepTable(replayed(labelled(), "compiled", turns=2)).run()
    later = StepTable(replayed(labelled(), "compiled", turns=2, think_s=1.0)).run()
    one, other = at_once.metrics(), later.metrics()
    assert other["simulated_s"] >= 2.0 > one["simulated_s"]  # two second turns
    assert sum(later.array()[:, 4]) <= sum(at_once.array()[:, 4])
    assert 0 < other["link_utilisation"] < 1e-3


def test_each_turn_has_a_ttft_and_later_ones_a_metric():
    table = StepTable(replayed(labelled(), "compiled", "lru", turns=2)).run()
    requests, steps_ = table.requests(), table.columns()
    prompts = steps_["latency_ns"][steps_["phase"] == 0] / 1e9
    assert requests["ttft_s"].tolist() == pytest.approx(prompts.tolist())
    assert requests["turn"].tolist() == [0, 1, 0, 1] and requests["chat"].tolist() == [0, 0, 1, 1]
    assert table.metrics()["later_ttft_s.mean"] == pytest.approx(prompts[[1, 3]].mean())
    assert "later_ttft_s.mean" not in StepTable(replayed(labelled(), "compiled", "lru")).run().metrics()


def test_lost_experts_are_fetched_again():
    kept = StepTable(replayed(labelled(), "compiled", "lru", turns=2)).run().array()
    lost = StepTable(replayed(labelled(), "compiled", "lru", turns=2, keep="kv")).run().array()
    fresh = StepTable(replayed(labelled(), "compiled", "lru", cache={"reset": "request"}, by_turn=True)).run().array()
    at = COLUMNS.index("hits")
    assert lost[:, at].sum() < kept[:, at].sum()
    order = np.concatenate([np.arange(4) + 4 * request for request in (0, 2, 1, 3)])  # chat by chat
    assert np.array_equal(lost[:, at], fresh[order][:, at])


@pytest.mark.parametrize(
    ("session", "run", "cache", "policy", "sentence"),
    [
        ({"turns": 2}, {"batch_size": 2}, {}, "lru", "batch_size=2: the turns of chats"),
        (
            {"turns": 2, "interleave": True, "keep": "kv"},
            {},
            {},
            "lru",
            "session.keep=kv: with session.interleave=true",
        ),
        (
            {"turns": 2, "interleave": True},
            {},
            {"reset": "all"},
            "lru",
            "cache.reset=all: with session.interleave=true",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(session, run, cache, policy, sentence):
    setup = DeviceSetup(POLICIES[policy], machine(), CacheConfig(**cache), RunConfig(**run))
    with pytest.raises(UserError, match=sentence):
        assemble(cut(labelled(), **session), in_session(setup, SessionConfig(**session)))


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"turns": 0}, "session.turns=0: must be at least 1, or null for as recorded"),
        ({"keep": "some"}, "session.keep=some: must be one of all, experts, kv, none"),
        ({"think_s": float("inf")}, "session.think_s=inf: must be between"),
        ({"interleave": True, "think_s": 1.0}, "session.think_s=1: with session.interleave=true"),
    ],
)
def test_knobs_out_of_range_are_named(knobs, sentence):
    with pytest.raises(UserError, match=sentence):
        SessionConfig(**knobs)
