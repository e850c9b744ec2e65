"""Storage behind host memory: who is served from where, when it arrives, and that nothing changes where all fits."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

from policies.assignment.cpu_only import CpuOnly
from sim.assembly import replay as assembly
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import PrefillConfig, RunConfig, TimeConfig
from sim.engine.clocks.timeline_log import LOG_READ
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.host_store import HostConfig, HostStore
from sim.machine.storage import Reading
from sim.metrics.step_table import StepTable
from sim.run.what_if import what_if
from tests.support.fixed_rules import fetching
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine
from tests.support.timelines import TIMED, measured, rows
from traces.errors import UserError

RATES = [[1000, 1, 2.5e8, 5e8], [250, 1, 1.25e8, 2.5e8]]
"""An expert of 1000 bytes takes 4000 ns to read whole, 8000 ns in requests of 250 bytes."""


def tiered(trace, policy, engine, host=None, hardware=None, prefill=None, time=None, **knobs):
    """A replay with a timeline on a machine with storage."""
    timeline = engine != "untimed"
    setup = DeviceSetup(
        policy,
        hardware or machine(storage_rates=RATES),
        CacheConfig(**knobs),
        RunConfig(engine=engine, timeline=timeline and not (prefill and prefill.streams)),
        time or TimeConfig(),
        host=host or HostConfig(bytes=2000, start="cold"),
        prefill=prefill or PrefillConfig(),
    )
    return assemble(trace, setup)


def found(*args, **knobs):
    return measured(tiered(*args, **knobs))


def reads(timed):
    return [row[1:4] for row in timed.log if row[0] == LOG_READ]


@pytest.mark.parametrize("engine", TIMED)
def test_lru_over_lru_by_hand(engine):
    """One slot above host memory for two; the accesses 0 1 0 2 1 0.

    0 and 1 are read. 0 is served and is then the one used last, so that 2 takes the place of 1, 1 that of 0, 0 that of
    2. The GPU holds none of them when it is wanted again.
    """
    trace = rows([[0]], [[1]], [[0]], [[2]], [[1]], [[0]])
    timed = found(trace, BARE, engine, slots_per_layer=1)
    assert timed.latency_ns == [5000, 5000, 1000, 5000, 5000, 5000]
    assert (timed.counts["host_hits"], timed.counts["host_misses"], timed.counts["storage_bytes"]) == (1, 5, 5000)
    assert timed.spent() == {"link": 6000, "storage": 20_000}
    assert timed.metrics["host_hit_rate"] == 1 / 6
    fifo = found(trace, BARE, engine, HostConfig(bytes=2000, start="cold", eviction="fifo"), slots_per_layer=1)
    assert fifo.latency_ns == [5000, 5000, 1000, 5000, 1000, 5000]  # 2 takes the place of 0: 1 is still there


@pytest.mark.parametrize("engine", TIMED)
def test_what_lies_in_host_memory_goes_first_and_reads_queue(engine):
    """In step 3, from 18,000 on, 4 is wanted first and read until 22,000; 1, which lies there, is copied meanwhile."""
    trace = rows([[0, 1]], [[2, 3]], [[4, 1]])
    timed = found(trace, BARE, engine, HostConfig(bytes=4000, start="cold"), slots_per_layer=2)
    assert reads(timed) == [(0, 0, 4000), (1, 4000, 8000), (2, 9000, 13_000), (3, 13_000, 17_000), (4, 18_000, 22_000)]
    assert timed.slices("copy")[-2:] == [(1, 18_000, 19_000), (4, 22_000, 23_000)]
    assert timed.latency_ns == [9000, 9000, 5000]


@pytest.mark.parametrize("engine", TIMED)
def test_pieces_go_on_as_they_arrive(engine):
    """Read in four requests of 250 bytes until 8000; the last piece takes 250 ns over the link."""
    hardware = machine(storage_rates=RATES, read_bytes=250)
    timed = found(rows([[0]]), BARE, engine, hardware=hardware, slots_per_layer=1)
    assert timed.latency_ns == [8250]
    # a link of 20,000 ns per expert begins with the first piece, which is there at 2000
    slow = machine(storage_rates=RATES, read_bytes=250, link_bytes_per_s=5e7)
    timed = found(rows([[0]]), BARE, engine, hardware=slow, slots_per_layer=1)
    assert timed.latency_ns == [22_000]
    assert timed.spent() == {"link": 20_000, "storage": 2000}
    assert timed.metrics["link_utilisation"] == pytest.approx(20 / 22)


@pytest.mark.parametrize("engine", TIMED)
def test_reads_that_take_no_time_leave_the_copies(engine):
    trace = rows([[0]], [[1]])
    assert found(trace, BARE, engine, time=TimeConfig(storage=False), slots_per_layer=1).latency_ns == [1000, 1000]


@pytest.mark.parametrize("engine", TIMED)
def test_the_host_installs_what_was_read_before_the_next_read(engine):
    """Three experts of 4000 ns and 600 more each, without either where it is switched off; hits install nothing."""
    slots = machine(storage_rates=RATES, unified_memory=True, install_s=600e-9)
    trace = rows([[0, 1, 2]], [[0, 1, 2]])
    for switches, each_ns in (({}, 4600), ({"storage": False}, 600), ({"install": False}, 4000)):
        timed = found(trace, BARE, engine, hardware=slots, time=TimeConfig(**switches), slots_per_layer=3)
        assert timed.latency_ns == [3 * each_ns, 0]
        assert timed.spent() == {"storage": 3 * each_ns}
    # over a link of 20,000 ns the copy begins when the first of four pieces is there and installed, at 2600
    slow = machine(storage_rates=RATES, read_bytes=250, link_bytes_per_s=5e7, install_s=600e-9)
    assert found(rows([[0]]), BARE, engine, hardware=slow, slots_per_layer=1).latency_ns == [22_600]


@pytest.mark.parametrize("engine", TIMED)
def test_the_cpu_waits_for_storage_too(engine):
    """Read until 4000, computed in 500; the next time it lies in host memory."""
    policy = replace(BARE, name="cpu", assignment=CpuOnly())
    timed = found(rows([[0]], [[0]]), policy, engine, slots_per_layer=1)
    assert timed.latency_ns == [4500, 500]
    assert timed.spent() == {"cpu": 1000, "storage": 4000}


@pytest.mark.parametrize("engine", TIMED)
def test_a_prefetch_reads_when_its_copy_starts(engine):
    """From 0 on expert 5 of layer 1 is read, which 10,000 ns of host time hide."""
    timed = found(
        rows([[0], [5]]),
        fetching(first=5),
        engine,
        HostConfig(bytes=4000, start="cold"),
        machine(storage_rates=RATES, host_s_per_layer=10e-6),
        slots_per_layer=1,
    )
    assert reads(timed) == [(0, 10_000, 14_000), (13, 15_000, 19_000)]
    assert timed.counts["prefetch_used"] == 1
    assert timed.latency_ns == [10_000 + 5000 + 10_000]


@pytest.mark.parametrize("engine", TIMED)
def test_exclusive_memory_holds_what_the_slots_do_not(engine):
    """A slot and room for one more hold 0 and 1 together: after both were read, the two change places at 2000 ns."""
    policy, trace = replace(BARE, write_back="serial"), rows([[0]], [[1]], [[0]], [[1]])
    host = HostConfig(bytes=1000, start="cold", inclusion="exclusive")
    assert found(trace, policy, engine, host, slots_per_layer=1).latency_ns == [5000, 6000 - 1000, 2000, 2000]
    inclusive = replace(host, inclusion="inclusive")
    assert found(trace, BARE, engine, inclusive, slots_per_layer=1).counts["host_misses"] == 4


def by_hand(trace, slots, capacity):
    """(hits in slots, hits in host memory) of LRU over LRU, one expert per layer step."""
    layers, host = [OrderedDict() for _ in range(trace.num_layers)], OrderedDict()
    hits = host_hits = 0
    for token in np.asarray(trace.topk_ids):
        for layer, (expert,) in enumerate(token):
            held, key = layers[layer], (layer, int(expert))
            hits += expert in held
            if expert not in held:
                if key in host:
                    host_hits += 1
                    host.move_to_end(key)
                else:
                    while len(host) >= capacity:
                        host.popitem(last=False)
                    host[key] = True
                if len(held) >= slots:
                    held.popitem(last=False)
            held[expert] = True
            held.move_to_end(expert)
    return hits, host_hits


@pytest.mark.parametrize("engine", ["compiled", "untimed"])
def test_lru_over_lru_counts_as_two_ordered_dicts(engine):
    trace = random_trace(5, 3, 8, 1, prompts=(0,), decodes=(400,), expert_bytes=1000)
    replay = tiered(trace, BARE, engine, HostConfig(bytes=9000, start="cold"), slots_per_layer=2)
    for _ in replay.blocks():
        pass
    counts = dict(zip(("hits", "host_hits"), by_hand(trace, 2, 9), strict=True))
    assert {name: int(replay.device.counts[COUNTERS.index(name)]) for name in counts} == counts


@pytest.mark.parametrize("engine", TIMED)
@pytest.mark.parametrize("policy", ["lru", "importance"])
def test_host_memory_that_holds_everything_changes_nothing(engine, policy, monkeypatch):
    trace = random_trace(3, prompts=(4, 0), decodes=(9, 6), expert_bytes=1000)
    plain = StepTable(tiered(trace, POLICIES[policy], engine, HostConfig(), slots_per_layer=3)).run()
    whole = HostStore(10**9, True, False, True, Reading(None, 1, False))
    monkeypatch.setattr(assembly, "host_store", lambda *_: whole)
    kept = StepTable(tiered(trace, POLICIES[policy], engine, HostConfig(), slots_per_layer=3)).run()
    both = {name: column for name, column in kept.columns().items() if name != "host_hits"}
    for name, column in both.items():
        np.testing.assert_array_equal(column, plain.columns()[name])
    assert kept.metrics()["host_hit_rate"] == 1.0


@pytest.mark.parametrize("engine", TIMED)
def test_unified_memory_reads_into_its_slots(engine):
    timed = found(
        rows([[0]], [[1]], [[1]]), BARE, engine, hardware=machine(storage_rates=RATES, unified_memory=True),
        slots_per_layer=1,
    )  # fmt: skip
    assert timed.latency_ns == [4000, 4000, 0]
    assert timed.spent() == {"storage": 8000}
    assert timed.metrics["link_utilisation"] == 0.0


def test_the_page_cache_reads_ahead_in_order():
    """131,072 bytes one after the other at the sequential rate of the largest row, 5e8."""
    timed = found(
        rows([[0]]), BARE, "compiled", HostConfig(bytes=2000, start="cold", mode="page_cache"), slots_per_layer=1
    )
    assert reads(timed) == [(0, 0, 2000)]


def test_what_binds_is_storage_or_host_memory():
    trace = random_trace(3, prompts=(0, 0), decodes=(9, 9), expert_bytes=1000)
    answers = what_if(tiered(trace, BARE, "compiled", HostConfig(bytes=3000, start="cold"), slots_per_layer=2))
    named = {row["name"]: row["tpot_s"] for row in answers["scenarios"]}
    assert named["every expert in host memory"] == named["infinite storage"] < answers["baseline"]["tpot_s"]
    assert "waiting for storage" in answers["bound"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"hardware": machine(), "host": HostConfig(bytes=2000)},
            "the rest needs storage, and hardware test states no",
        ),
        ({"hardware": machine(host_memory_bytes=10), "host": HostConfig()}, "host memory of test has 0 GB for experts"),
        ({"host": HostConfig(bytes=999)}, "host.bytes=999 has 9.99e-07 GB for experts, and the 1 that a token wants"),
        ({"host": HostConfig(bytes=2000, inclusion="exclusive")}, "host.inclusion=exclusive: what leaves the GPU"),
        ({"prefill": PrefillConfig("stream")}, "prefill.order=stream copies whole layers"),
        ({"hardware": machine(unified_memory=True)}, "unified memory keeps experts in its slots alone"),
        (
            {
                "hardware": machine(unified_memory=True, storage_rates=RATES),
                "policy": replace(BARE, name="cpu", assignment=CpuOnly()),
            },
            "has unified memory: slots hold what GPU and CPU read alike",
        ),
    ],
)
def test_refusals(changes, sentence):
    knobs = {"policy": BARE, "engine": "compiled"} | changes
    with pytest.raises(UserError) as error:
        tiered(rows([[0]]), knobs.pop("policy"), knobs.pop("engine"), slots_per_layer=1, **knobs)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("rows_of", "sentence"),
    [
        ([[1000, 1, 0, 1]], "storage_rates (random)=0: must be above 0"),
        ([[1000, 1, 2e9]], "a row is [request bytes, requests at once, random, sequential]"),
        ([[9, 1, 1, 1], [9, 1, 2, 2]], "states one request bytes and requests at once twice"),
        ([], "must be a list of rows"),
    ],
)
def test_bad_tables_of_rates_are_refused(rows_of, sentence):
    with pytest.raises(UserError) as error:
        machine(storage_rates=rows_of)
    assert sentence in str(error.value)
