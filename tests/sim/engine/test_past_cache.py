"""Prompts that go past the cache: through staging slots, or streamed layer by layer; by hand and on both engines."""

from dataclasses import replace

import numpy as np
import pytest

from sim.assembly.replay import DeviceSetup, assemble
from sim.config import PrefillConfig, RunConfig
from sim.machine.capacity import CacheConfig
from sim.metrics.step_table import COLUMNS, StepTable
from tests.support.random_traces import random_trace, routed
from tests.support.replays import POLICIES, machine
from traces.errors import UserError
from traces.format.trace import PREFILL


def order_of(past, stream):
    return PrefillConfig() if past == "never" else PrefillConfig("stream" if stream else "bypass", past)


def table_of(trace, engine="compiled", policy="lru", past="always", stream=False, chunk=None, slots=2, **figures):
    run = RunConfig(engine=engine, prefill_chunk=chunk)
    setup = DeviceSetup(
        POLICIES[policy],
        machine(**figures),
        CacheConfig(slots_per_layer=slots),
        run,
        prefill=order_of(past, stream),
    )
    replay = assemble(trace, setup)
    table = StepTable(replay).run()
    return dict(zip(COLUMNS, table.array().T, strict=True)), replay


def prompt_and_decode():
    """Four experts, one layer, one expert per token: a decoded turn fills both slots, a prompt of four, a token."""
    trace = routed(np.array([0, 1, 0, 1, 2, 3, 0]).reshape(-1, 1, 1), 4, [0], [7])
    return replace(trace, phase=np.array([1, 1, 0, 0, 0, 0, 1], np.uint8))


@pytest.mark.parametrize("engine", ["simpy", "compiled", "untimed"])
@pytest.mark.parametrize(
    ("past", "stream", "slots", "hits", "copies"),
    [
        ("never", False, 2, [0, 0, 2, 0], [1, 1, 2, 1]),  # the prompt keeps its most recent experts: 2 and 3
        ("always", False, 2, [0, 0, 2, 1], [1, 1, 2, 0]),
        ("overflow", False, 2, [0, 0, 2, 1], [1, 1, 2, 0]),
        ("overflow", False, 4, [0, 0, 2, 1], [1, 1, 2, 0]),  # it fits, and stays
        ("always", True, 2, [0, 0, 2, 1], [1, 1, 4, 0]),  # the whole layer is copied
    ],
)
def test_what_a_prompt_leaves_in_the_cache(engine, past, stream, slots, hits, copies):
    found, replay = table_of(prompt_and_decode(), engine, past=past, stream=stream, slots=slots)
    assert found["hits"].tolist() == hits and found["demand_copies"].tolist() == copies
    resident = {0, 1, 2, 3} if slots == 4 else {0, 1} if past != "never" else {0, 3}
    assert set(np.flatnonzero(replay.device.residents()[0])) == resident


def test_layers_stream_while_the_one_before_computes():
    """Three layers of 4 experts, 1000 ns a copy: 4000 ns a layer. An expert runs for 500 ns; every layer uses all
    4: 2000 ns. The third layer's copy waits for no buffer, since the link is the slower of both."""
    ids = np.tile(np.arange(4).reshape(4, 1, 1), (1, 3, 1))
    trace = routed(ids, 4, [4], [4])
    found, _ = table_of(trace, stream=True, gpu_memory_bytes_per_s=2e9)
    assert found["latency_ns"].tolist() == [3 * 4000 + 2000]
    assert found["link_ns"].tolist() == [4000 + 2000 + 2000]
    assert found["copied_bytes"].tolist() == [12_000]
    slow, _ = table_of(trace, stream=True, gpu_memory_bytes_per_s=2e8)  # an expert runs for 5000 ns, a layer 20000
    assert slow["latency_ns"].tolist() == [4000 + 3 * 20_000]


def test_a_third_layer_waits_until_a_buffer_is_free():
    """The first layer alone is slow to compute: layer 2's copy starts when it has run, not when the link is free."""
    ids = np.tile(np.arange(4).reshape(4, 1, 1), (1, 3, 1))
    trace = routed(ids, 4, [4], [4], expert_bytes=[1000, 10, 1000])
    found, _ = table_of(trace, stream=True, gpu_memory_bytes_per_s=1e8)
    # copies 4000, 40, 4000; layers 4 x 10000, 4 x 100, 4 x 10000: layer 2 comes 4000 after 0 has run, 3600 after 1
    assert found["latency_ns"].tolist() == [4000 + 40_000 + 400 + 3600 + 40_000]


KNOBS = [
    {"policy": policy, "past": past, "stream": stream, "chunk": chunk}
    for policy in ("lru", "prefetch", "prefetch_end", "importance", "belady_admit", "on_demand")
    for past, stream, chunk in (("always", False, None), ("overflow", True, 2), ("always", True, None))
]


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda knobs: "-".join(map(str, knobs.values())))
def test_engines_agree_to_the_nanosecond(knobs):
    trace = random_trace(4, prompts=(6, 1, 5), decodes=(4, 5, 3))
    trace = replace(trace, phase=np.concatenate([trace.phase[:-3], np.array([0, 0, 1], np.uint8)]))
    figures = {"gpu_memory_bytes_per_s": 1.7e9, "link_call_s": 3e-8, "launch_s": 2e-8, "kernels_per_expert": 1}
    figures |= {"host_s_per_layer": 1e-7, "sync_s": 5e-8}
    one, other = (table_of(trace, name, slots=3, **knobs, **figures)[0] for name in ("simpy", "compiled"))
    for name in COLUMNS:
        assert one[name].tolist() == other[name].tolist(), name
    parts = sum(one[name] for name in COLUMNS if name.endswith("_ns") and name != "latency_ns")
    assert parts.tolist() == one["latency_ns"].tolist()


def test_by_expert_nothing_is_fetched_twice_and_by_token_often():
    trace = random_trace(1, num_layers=2, num_experts=16, top_k=4, prompts=(40,), decodes=(1,), skew=0.3)
    whole, by_token = (table_of(trace, past="never", chunk=chunk, slots=4)[0] for chunk in (None, 1))
    assert whole["fetches"][0] == whole["demanded"][0] <= 2 * 16
    assert by_token["fetches"].sum() > 3 * whole["fetches"].sum()


@pytest.mark.parametrize(
    ("order", "chunk", "same"), [("token", 5, 1), ("chunk", 3, 3), ("expert", 3, None), (None, 2, 2)]
)
def test_an_order_says_how_much_of_a_prompt_one_step_takes(order, chunk, same):
    trace, knobs = random_trace(2, prompts=(7, 4)), CacheConfig(slots_per_layer=3)
    tables = []
    for prefill, size in ((PrefillConfig(order), chunk), (PrefillConfig(), same)):
        run = RunConfig(engine="compiled", prefill_chunk=size)
        tables.append(
            StepTable(assemble(trace, DeviceSetup(POLICIES["lru"], machine(), knobs, run, prefill=prefill))).run()
        )
    assert np.array_equal(tables[0].array(), tables[1].array())


def passes_of(order, past, size):
    """The table of two prompts of 7 and 4 tokens in passes of ``size``, 3 layers of 8 experts, 3 slots each."""
    run, knobs = RunConfig(engine="compiled"), CacheConfig(slots_per_layer=3)
    prefill = PrefillConfig(order, past, size)
    setup = DeviceSetup(POLICIES["lru"], machine(), knobs, run, prefill=prefill)
    return StepTable(assemble(random_trace(2, prompts=(7, 4)), setup)).run()


def test_every_pass_brings_its_experts_anew():
    run, knobs = RunConfig(engine="compiled", prefill_chunk=3), CacheConfig(slots_per_layer=3)
    chunks = StepTable(assemble(random_trace(2, prompts=(7, 4)), DeviceSetup(POLICIES["lru"], machine(), knobs, run)))
    assert np.array_equal(passes_of("expert", "overflow", 3).array(), chunks.run().array())
    for size, passes in ((3, 3 + 2), (7, 2), (None, 2)):
        columns = passes_of("stream", "always", size).columns()
        assert columns["demand_copies"][columns["phase"] == PREFILL].tolist() == [3 * 8] * passes


def test_what_makes_no_sense_is_refused():
    for order in (None, "token", "chunk"):
        with pytest.raises(UserError, match=r"prefill.pass_tokens=4: only for prefill.order=expert, bypass or stream"):
            PrefillConfig(order, pass_tokens=4)
    with pytest.raises(UserError, match=r"prefill.order=mostly: must be one of token, chunk, expert, bypass, stream"):
        PrefillConfig("mostly")
    with pytest.raises(UserError, match=r"prefill.bypass=never: must be overflow or always"):
        PrefillConfig("stream", "never")
    with pytest.raises(UserError, match=r"prefill.order=chunk needs the tokens of a chunk"):
        PrefillConfig("chunk").chunk(None)
    for cache, run, stream, sentence in (
        ({"overflow": "hold"}, {}, False, "cache.overflow=hold knows no staging slots"),
        ({"semantics": "sequential"}, {}, False, "cache.semantics=sequential knows no staging slots"),
        ({}, {"timeline": True}, True, "a timeline does not show streamed layers"),
    ):
        setup = DeviceSetup(
            POLICIES["lru"], machine(), CacheConfig(**cache), RunConfig(**run), prefill=order_of("always", stream)
        )
        with pytest.raises(UserError, match=sentence):
            assemble(random_trace(0), setup)
