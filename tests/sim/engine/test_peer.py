"""A second GPU as a store: experts come from it, and what it lacks from host memory through it."""

from dataclasses import replace

import numpy as np
import pytest

from policies.assignment.cpu_only import CpuOnly
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import PrefillConfig, RunConfig
from sim.engine.clocks.timeline_log import LOG_READ
from sim.machine.capacity import CacheConfig
from sim.machine.devices import DevicesConfig
from sim.machine.host_store import HostConfig
from sim.metrics.step_table import StepTable
from sim.run.what_if import what_if
from sim.timeline.event_file import NAME
from tests.sim.timeline.test_timeline import slices, track, written
from tests.support.fixed_rules import LastOnCpu, fetching
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine
from tests.support.timelines import TIMED, measured, rows
from traces.errors import UserError

STORE = DevicesConfig(2, "store", second_link_bytes_per_s=2.5e8, peer_bytes_per_s=4e9, peer_bytes=2000)
"""1000 bytes take 250 ns between the GPUs, 4000 ns from host memory; two experts lie in the second GPU."""
COLD = HostConfig(start="cold")


def stored(trace, policy, engine, devices=STORE, host=COLD, hardware=None, **knobs):
    run = RunConfig(engine=engine, timeline=True)
    cache = CacheConfig(**({"slots_per_layer": 1} | knobs))
    return assemble(
        trace, DeviceSetup(policy, hardware or machine(), cache, run, host=host, devices=devices)
    )  # fmt: skip


def found(*args, **knobs):
    return measured(stored(*args, **knobs))


@pytest.mark.parametrize("engine", TIMED)
def test_lru_over_lru_by_hand(engine):
    """The accesses 0 1 0 2 1 0 through one slot: only the third finds its expert in the second GPU."""
    timed = found(rows([[0]], [[1]], [[0]], [[2]], [[1]], [[0]]), BARE, engine)
    assert timed.latency_ns == [4250, 4250, 250, 4250, 4250, 4250]
    assert [row[1:4] for row in timed.log if row[0] == LOG_READ][:2] == [(0, 0, 4000), (1, 4250, 8250)]
    assert timed.slices("copy")[:3] == [(0, 4000, 4250), (1, 8250, 8500), (0, 8500, 8750)]
    assert timed.spent() == {"link": 6 * 250, "storage": 5 * 4000}
    whole_ns = sum(timed.latency_ns)
    assert timed.metrics["peer_hit_rate"] == 1 / 6
    assert timed.metrics["host_bytes_per_token"] == 5000 / 6
    assert timed.metrics["link_utilisation"] == pytest.approx(1500 / whole_ns)
    assert timed.metrics["host_link_utilisation"] == pytest.approx(20_000 / whole_ns)
    assert not {"host_hit_rate", "storage_bytes_per_token", "storage_utilisation"} & timed.metrics.keys()


@pytest.mark.parametrize("engine", TIMED)
def test_tensors_go_on_as_they_arrive(engine):
    """Four tensors per expert, each 1000 ns from host memory with a latency of 0; the last one takes 62 ns more."""
    hardware = machine(copies_per_expert=4)
    assert found(rows([[0]]), BARE, engine, hardware=hardware).latency_ns == [4062]
    # between the GPUs 20,000 ns per expert: it begins with the first tensor, which is there at 1000
    slow = replace(STORE, peer_bytes_per_s=5e7)
    assert found(rows([[0]]), BARE, engine, devices=slow, hardware=hardware).latency_ns == [21_000]


@pytest.mark.parametrize("engine", TIMED)
def test_latency_counts_on_both_links_and_pageable_memory_on_that_of_the_host(engine):
    """100 ns per copy and 4000 over each of them; from pageable memory at 1e8 bytes/s, 10,000 ns."""
    hardware = machine(link_latency_s=1e-7)
    assert found(rows([[0]]), BARE, engine, hardware=hardware).latency_ns == [4100 + 350]
    pageable = machine(memory="pageable", pageable_bytes_per_s=1e8)
    assert found(rows([[0]]), BARE, engine, hardware=pageable).latency_ns == [10_250]


@pytest.mark.parametrize("engine", TIMED)
def test_exclusive_holds_what_the_slots_do_not(engine):
    """A slot and room for one more hold 0 and 1 together; then each change of places takes a copy either way."""
    policy, trace = replace(BARE, write_back="serial"), rows([[0]], [[1]], [[0]], [[1]])
    host, one = HostConfig(start="cold", inclusion="exclusive"), replace(STORE, peer_bytes=1000)
    assert found(trace, policy, engine, one, host).latency_ns == [4250, 4250, 500, 500]
    assert found(trace, BARE, engine, one).counts["host_misses"] == 4


@pytest.mark.parametrize("engine", TIMED)
def test_a_prefetch_comes_through_the_second_gpu_too(engine):
    """From 0 on expert 5 of layer 1 is copied to the second GPU and on, which 10,000 ns of host time hide."""
    wide, slow_host = replace(STORE, peer_bytes=4000), machine(host_s_per_layer=10e-6)
    timed = found(rows([[0], [5]]), fetching(first=5), engine, wide, hardware=slow_host)
    assert (timed.counts["prefetch_used"], timed.counts["host_misses"]) == (1, 2)
    assert timed.latency_ns == [10_000 + 4250 + 10_000]


@pytest.mark.parametrize("engine", TIMED)
def test_the_cpu_computes_from_host_memory_without_a_read(engine):
    """500 ns each, whatever lies in the second GPU; what the CPU and copies take of DRAM at once is left out."""
    policy = replace(BARE, name="cpu", assignment=CpuOnly())
    timed = found(rows([[0]], [[1]]), policy, engine, hardware=machine(link_contention=1.7, cpu_contention=1.5))
    assert timed.latency_ns == [500, 500]
    assert timed.counts["host_hits"] == timed.counts["host_misses"] == 0
    last = replace(BARE, name="last", assignment=LastOnCpu(1))
    both = found(
        rows([[0, 1]]), last, engine, slots_per_layer=2, hardware=machine(link_contention=1.7, cpu_contention=1.5)
    )
    assert both.latency_ns == [4250]  # 0 from host memory through the second GPU, 1 on the CPU meanwhile
    assert both.counts["host_misses"] == 1


@pytest.mark.parametrize("engine", TIMED)
@pytest.mark.parametrize("policy", ["lru", "prefetch", "belady"])
def test_a_second_gpu_that_holds_everything_is_one_gpu_with_its_link(engine, policy):
    trace = random_trace(3, 4, prompts=(4, 0), decodes=(9, 6), expert_bytes=1000)
    all_of_it = replace(STORE, peer_bytes=10**9)
    fast = machine(link_bytes_per_s=4e9)
    plain = StepTable(stored(trace, POLICIES[policy], engine, DevicesConfig(), hardware=fast)).run().columns()
    peer = StepTable(stored(trace, POLICIES[policy], engine, all_of_it, HostConfig())).run()
    for name, column in peer.columns().items():
        if name != "host_hits":
            np.testing.assert_array_equal(column, plain[name])
    assert peer.metrics()["peer_hit_rate"] == 1.0


@pytest.mark.parametrize("engine", TIMED)
def test_a_second_gpu_is_host_memory_with_a_drive_behind_it(engine):
    """The same chain of stores: a drive that reads as fast as the second GPU's link, and a link as between the GPUs."""
    trace = random_trace(3, 4, prompts=(4, 0), decodes=(9, 6), expert_bytes=1000)
    drive = machine(storage_rates=[[1000, 1, 2.5e8, 2.5e8]], link_bytes_per_s=4e9)
    chain = stored(trace, BARE, engine, DevicesConfig(), HostConfig(bytes=2000, start="cold"), drive)
    np.testing.assert_array_equal(
        StepTable(chain).run().array(), StepTable(stored(trace, BARE, engine)).run().array()
    )  # fmt: skip


def test_what_binds_is_either_link_or_the_second_gpus_memory():
    trace = random_trace(3, prompts=(0, 0), decodes=(9, 9), expert_bytes=1000)
    answers = what_if(stored(trace, BARE, "compiled"))
    named = {row["name"]: row for row in answers["scenarios"]}
    whole, link = named["every expert in the second GPU"], named["infinite second link"]
    assert whole["tpot_s"] == link["tpot_s"] < answers["baseline"]["tpot_s"]
    assert {whole["binds"], link["binds"]} == {"the second GPU's memory", "the second link"}
    assert -0.2 < named["infinite link between the GPUs"]["change"] < 0
    assert "infinite link" not in named
    assert "second GPU's link-bound" in answers["bound"]


def test_the_timeline_names_the_links(tmp_path):
    events, _ = written(stored(rows([[0]]), BARE, "compiled"), tmp_path)
    assert (tmp_path / NAME).is_file()
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names[track("link")] == "link from the second GPU"
    assert names[track("storage")] == "link to host memory"
    assert ("L0 E0 wait for host memory", 0, 4000) in slices(events, track("GPU"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"devices": replace(STORE, peer_bytes=999)}, "the second GPU has 9.99e-07 GB for experts, and the 1 that"),
        ({"host": HostConfig(inclusion="exclusive")}, "host.inclusion=exclusive: what leaves the GPU"),
        ({"host": HostConfig(mode="page_cache")}, "host.mode=page_cache: with devices.role=store no file is read"),
        (
            {"host": HostConfig(bytes=2000), "machine": machine(storage_rates=[[1000, 1, 1e9, 1e9]])},
            "host.bytes=2000 has 2e-06 GB for experts, and all of them take",
        ),
        ({"host": HostConfig(bytes=2000)}, "storage behind it is not replayed with a second GPU as a store"),
        ({"machine": machine(unified_memory=True)}, "has unified memory, and one GPU"),
        ({"prefill": PrefillConfig("stream")}, "devices.role=store: prefill.order=stream copies whole layers"),
    ],
)
def test_refusals(changes, sentence):
    fields = {"policy": BARE, "machine": machine(), "cache": CacheConfig(slots_per_layer=1), "devices": STORE}
    with pytest.raises(UserError) as error:
        assemble(rows([[0]]), DeviceSetup(**(fields | changes)))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"role": "store", "count": 1}, "devices.role=store is of devices.count=2"),
        ({"role": "store"}, "devices.role=store needs devices.peer_bytes_per_s"),
        ({"peer_bytes": 5}, "devices.peer_bytes is of devices.role=store; use null"),
        (
            {"role": "store", "peer_bytes_per_s": 1e9, "first_layers": 2},
            "devices.first_layers is of devices.role=split",
        ),
        ({"role": "both"}, "devices.role=both"),
        (
            {"role": "store", "peer_bytes_per_s": 1e9, "handover_s": 1e-3},
            "devices.handover_s is of devices.role=split; use 2e-05",
        ),
        ({"count": 1, "handover_s": 1e-3}, "devices.handover_s is of devices.count=2; use 2e-05"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(UserError) as error:
        DevicesConfig(**({"count": 2} | fields))
    assert sentence in str(error.value)
