"""cache.bytes=auto: experts get what K and V of every step leave, worked out by hand; both engines; what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from sim.assembly.replay import DeviceSetup, assemble
from sim.config import PrefillConfig, RunConfig, SessionConfig, SpeculateConfig
from sim.engine.invariants import broken_invariants
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import COLUMNS, StepTable
from sim.workload.chats import as_session
from sim.workload.held import HeldTokens
from sim.workload.steps import Schedule
from tests.sim.workload.test_turns import turns
from tests.support.random_traces import random_trace, routed
from tests.support.replays import POLICIES, machine
from traces.errors import UserError

STAGING = 2 * 1000
"""Bytes of the two staging slots of `machine`, for experts of 1000 bytes."""


def sized(trace, kv=100, **sizes):
    return replace(trace, geometry=replace(trace.geometry, kv_bytes_per_token=kv, **sizes))


def assembled(
    trace, memory, policy="lru", engine="compiled", session=None, prefill=None, batch_size=1, speculate=None, **cache
):
    hardware = machine(gpu_memory_bytes=memory, gpu_memory_bytes_per_s=2e9)
    run, knobs = RunConfig(engine=engine, batch_size=batch_size), CacheConfig(bytes="auto", workspace_bytes=0, **cache)
    chosen = POLICIES[policy] if isinstance(policy, str) else policy
    session, prefill = session or SessionConfig(), prefill or PrefillConfig()
    drafts = SpeculateConfig(**(speculate or {}))
    setup = DeviceSetup(chosen, hardware, knobs, run, session=session, prefill=prefill, speculate=drafts)
    return assemble(as_session(trace, session)[0], setup)


def in_a_row(ids):
    return routed(np.array(ids).reshape(-1, 1, 1), 4, [0], [len(ids)])


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_cache_shrinks_by_its_rule_as_the_context_grows(engine, scope):
    """Of 5500 bytes 2000 are staging slots and 100 a token's K and V: 3 slots up to token 5, 2 up to 15, then 1."""
    trace = sized(in_a_row([0, 1, 2, 0, 1, 2, *[1, 2] * 4, 1, 2, 1]))
    replay = assembled(trace, STAGING + 3500, engine=engine, scope=scope)
    table = dict(zip(COLUMNS, StepTable(replay).run().array().T, strict=True))
    assert table["hits"].tolist() == [0, 0, 0, 1, 1] + [0] + [1] * 8 + [1] + [0, 0]
    # token 6: 2, the least recent, leaves for K and V and comes again in the place of 0; token 16: 2 leaves the last
    # slot but one and comes in the place of 1
    assert table["evictions"].tolist() == [0] * 5 + [2] + [0] * 9 + [2, 1]
    room = [3500 - 100 * token for token in range(1, 18)]
    assert replay.room.start == room[0] and replay.room.least == room[-1] and replay.room.longest == 17
    assert replay.pools.total_bytes == int(np.mean(room))


def test_what_is_resident_and_k_and_v_never_exceed_the_memory():
    trace = sized(random_trace(3, prompts=(5, 4), decodes=(30, 40)))
    replay = assembled(trace, STAGING + 9000 + 300 * 45)
    held = HeldTokens(replay.schedule, True)
    for result in replay.blocks():
        tokens = held.of(result.block)
        assert (result.block.pool_bytes * 3 + 300 * tokens + STAGING <= replay.hardware.gpu_memory_bytes).all()
    assert not list(broken_invariants(replay.device))
    replay.device.cache_arrays["capacity"][:] = 500
    assert any("experts occupy" in broken for broken in broken_invariants(replay.device))
    replay.device.cache.set("over_bytes", 7)
    assert any("once occupied 7 bytes more" in broken for broken in broken_invariants(replay.device))


def test_a_batch_holds_k_and_v_of_all_its_requests_until_each_ends():
    trace = random_trace(0, prompts=(2, 3), decodes=(2, 4))
    schedule = Schedule(trace, 2)
    found = [count for block in schedule.blocks(2) for count in [HeldTokens(schedule, True).of(block).tolist()]]
    assert found  # each block alone starts anew
    whole = HeldTokens(schedule, True)
    assert [n for block in schedule.blocks(1) for n in whole.of(block).tolist()] == [2, 5, 7, 9, 6, 7]


def test_a_chat_leaves_its_k_and_v_to_its_next_turn():
    for session, expected in (
        ({"by_turn": True}, [2, 3, 4, 5, 6, 1, 2, 3]),
        ({"interleave": True}, [2, 3, 4, 5, 6, 7, 5, 6]),
        ({"keep": "none"}, [2, 3, 4, 5, 6, 1, 2, 3]),
    ):
        knobs = SessionConfig(**session)
        schedule = Schedule(as_session(turns(), knobs)[0])
        held = HeldTokens(schedule, knobs.keeps_kv)
        assert [n for block in schedule.blocks() for n in held.of(block).tolist()] == expected


@pytest.mark.parametrize("rejected", ["recorded", "other"])
def test_drafts_hold_k_and_v_until_they_are_rolled_back(rejected):
    """Two drafts never accepted, two prompt rows, four decoded: rows 2 3 4, 3 4 5, 4 5, 5, whoever routes for them."""
    trace = random_trace(0, prompts=(2, 1), decodes=(4, 1))
    schedule = Schedule(trace, 1, speculate=SpeculateConfig(2, 0.0, rejected=rejected))
    held = HeldTokens(schedule, True)
    assert [n for block in schedule.blocks(3) for n in held.of(block).tolist()] == [2, 5, 6, 6, 6, 1, 2]


@pytest.mark.parametrize(
    ("draft", "weights", "kv"),
    [
        ({"draft": "ngram"}, 0, 0),
        ({"draft": "model", "draft_bytes": 700, "draft_kv_bytes": 11}, 700, 11),
        ({"draft": "mtp", "draft_bytes": 500}, 500, 100),
        ({"draft": "mtp", "draft_layers": 2, "draft_kv_bytes": 0}, 4 + 8 * 1000, 0),  # projection 2 x 1 x 1, 8 experts
        ({"draft": "mtp", "draft_layers": 2}, 4 + 8 * 1000, 200),
    ],
)
def test_weights_and_k_and_v_of_a_draft_lie_on_the_device_too(draft, weights, kv):
    trace = sized(random_trace(2, prompts=(3,), decodes=(5,)))
    rooms = [
        assembled(trace, 10**6, speculate={"tokens": 2, "acceptance": 0.0, **knobs}).room
        for knobs in ({"draft": "ngram"}, draft)
    ]
    assert rooms[0].longest == rooms[1].longest == 8
    assert rooms[0].least - rooms[1].least == weights + 8 * kv
    assert rooms[0].start - rooms[1].start == weights + 3 * kv
    without = assembled(trace, 10**6, speculate={"tokens": 0, **draft}).room
    assert without.least == rooms[0].least


def test_a_draft_model_of_unknown_k_and_v_is_refused():
    knobs = {"tokens": 1, "draft": "model", "draft_bytes": 5}
    with pytest.raises(UserError, match=r"state speculate\.draft_kv_bytes"):
        assembled(sized(random_trace(2)), 10**6, speculate=knobs)


CASES = [
    ({"policy": "lru"}, 0),
    ({"policy": "lru", "scope": "global"}, 0),
    ({"policy": "prefetch", "start": "warm", "reset": "request"}, 0),
    ({"policy": "importance", "scope": "global", "batch_size": 2}, 4),
    ({"policy": "belady_admit", "reset": "all"}, 0),
    ({"policy": "on_demand"}, 0),
    ({"policy": "lru", "session": SessionConfig(turns=2, keep="experts")}, 5),
    ({"policy": "prefetch", "prefill": PrefillConfig("bypass")}, 0),
    ({"policy": "prefetch", "prefill": PrefillConfig("stream")}, 48),
]


@pytest.mark.parametrize(("knobs", "more"), CASES)
def test_engines_agree_to_the_nanosecond(knobs, more):
    trace = sized(random_trace(5, prompts=(6, 4, 5), decodes=(20, 30, 1)), kv=200)
    memory = STAGING + 600 * 56 + 3000 + 1000 * more
    tables = [StepTable(assembled(trace, memory, engine=name, **knobs)).run() for name in ("simpy", "compiled")]
    assert np.array_equal(tables[0].array(), tables[1].array())
    assert tables[0].metrics() == tables[1].metrics()


def test_a_static_rule_has_what_the_longest_context_leaves():
    from policies.eviction.frozen_popularity import FrozenPopularity

    trace = sized(random_trace(2, num_layers=1, prompts=(0, 0), decodes=(9, 5)))
    policy = replace(POLICIES["lru"], eviction=FrozenPopularity())
    hardware = machine(gpu_memory_bytes=STAGING + 3900 + 0)
    setup = DeviceSetup(policy, hardware, CacheConfig(bytes="auto", workspace_bytes=0), RunConfig(engine="compiled"))
    replay = assemble(trace, setup, others=trace)
    assert replay.room.start == replay.room.least == 3000
    list(replay.blocks())
    assert replay.device.residents().sum() == 3


@pytest.mark.parametrize(
    ("memory", "policy", "sentence"),
    [
        (STAGING + 800 + 999, "lru", r"cannot start on test: of its 3.799e-06 GB staging slots 2e-06 GB, K and V of 8 "
         r"tokens 8e-07 GB leave 9.99e-07 GB, and one expert of each layer takes 1e-06 GB"),
        (800 + 7999, "all_resident", "and all experts take 8e-06 GB"),
        (STAGING + 799, "on_demand", "leave 0 GB, and no experts take 0 GB"),
    ],
)  # fmt: skip
def test_a_run_that_could_not_start_says_what_takes_how_much(memory, policy, sentence):
    trace = sized(random_trace(2, num_layers=1, prompts=(3,), decodes=(5,)))
    with pytest.raises(UserError, match=sentence):
        assembled(trace, memory, policy)
    list(assembled(trace, memory + 1, policy).blocks())


def test_what_cannot_follow_the_context_is_refused():
    trace = sized(random_trace(0))
    with pytest.raises(UserError, match=r"write_back=serial; use policy.write_back=none"):
        assembled(trace, 10**6, replace(POLICIES["lru"], write_back="serial"))
    with pytest.raises(UserError, match=r"cache.overflow=hold keeps steps whole"):
        CacheConfig(bytes="auto", overflow="hold")
    with pytest.raises(UserError, match=r"cache.bytes=most: must be a whole number, auto or null"):
        CacheConfig(bytes="most")
    with pytest.raises(UserError, match=r"cache.bytes=auto needs other_bytes of test, which are not known"):
        assembled(sized(trace, other_bytes=None), 10**6)
    assert CacheConfig(bytes="auto").auto and not CacheConfig(bytes=5).auto
