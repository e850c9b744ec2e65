"""Layers split over two GPUs: they run by turns, and each has a link and slots of its own."""

from dataclasses import replace

import numpy as np
import pytest

from policies.assignment.cpu_only import CpuOnly
from policies.prediction.drafts import Drafts
from policies.prefetch.promote_missed import PromoteMissed
from policies.prefetch.top_score import TopScore
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, SpeculateConfig
from sim.machine.capacity import CacheConfig
from sim.machine.devices import DevicesConfig
from sim.machine.host_store import HostConfig
from sim.metrics.step_table import StepTable
from sim.run.what_if import what_if
from tests.support.fixed_rules import fetching
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine
from tests.support.timelines import TIMED, rows
from traces.errors import UserError
from traces.format.layers import take_layers

RATES = [[1000, 1, 2.5e8, 5e8]]
"""An expert of 1000 bytes takes 4000 ns to read."""
PROMOTES = replace(BARE, name="promotes", prefetch=PromoteMissed(), assignment=CpuOnly())


def table_of(trace, policy, engine, devices=None, hardware=None, **knobs):
    """Columns of the steps."""
    devices = devices or DevicesConfig(2, handover_s=0)
    setup = DeviceSetup(
        policy, hardware or machine(), CacheConfig(**knobs), RunConfig(engine=engine), devices=devices
    )  # fmt: skip
    trace = replace(trace, geometry=replace(trace.geometry, hidden_size=0))  # activations have no bytes
    return StepTable(assemble(trace, setup)).run()


@pytest.mark.parametrize("engine", TIMED)
def test_turns_by_hand(engine):
    """A copy of 1000 ns in each layer, the second link at a quarter of the rate, 30 ns between them."""
    devices = DevicesConfig(2, second_link_bytes_per_s=2.5e8, handover_s=30e-9)
    table = table_of(rows([[0], [0]], [[0], [1]]), BARE, engine, devices, slots_per_layer=1)
    assert table.columns()["latency_ns"].tolist() == [1000 + 30 + 4000, 30 + 4000]
    assert table.metrics()["link_utilisation"] == pytest.approx((1000 + 8000) / 2 / 9060)


@pytest.mark.parametrize("engine", TIMED)
@pytest.mark.parametrize("policy", ["lru", "score_window", "cpu", "on_demand", "belady", "substitute"])
def test_what_only_demand_copies_takes_as_long_as_on_one(engine, policy):
    """With equal links and nothing to hand over nobody can tell whose layers they are."""
    trace = random_trace(3, 4, prompts=(4, 0), decodes=(9, 6), expert_bytes=1000)
    one = table_of(trace, POLICIES[policy], engine, DevicesConfig(), slots_per_layer=3).array()
    two = table_of(trace, POLICIES[policy], engine, slots_per_layer=3).array()
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("engine", TIMED)
def test_copies_in_the_background_go_on_while_the_other_computes(engine):
    """A miss takes 500 ns on the CPU and 1000 ns over the link, behind its layer.

    From 500 on expert 0 of layer 0 is copied, from 1000 on that of layer 1: over a link of its own until 2000, over the
    same one, which the other has until 1500, until 2500. Step 2, from 1000 on, waits for both.
    """
    trace = rows([[0], [0]], [[0], [0]], [[0], [0]])
    one = table_of(trace, PROMOTES, engine, DevicesConfig(), slots_per_layer=1).columns()["latency_ns"].tolist()
    two = table_of(trace, PROMOTES, engine, slots_per_layer=1).columns()["latency_ns"].tolist()
    assert (one, two) == ([1000, 1500, 0], [1000, 1000, 0])


def test_the_clocks_agree_on_two_gpus():
    trace = random_trace(5, 4, 8, 2, prompts=(3, 0), decodes=(30, 20), expert_bytes=1000)
    devices = DevicesConfig(2, first_layers=1, second_link_bytes_per_s=3e8, handover_s=70e-9)
    simpy, compiled = (
        table_of(trace, PROMOTES, engine, devices, slots_per_layer=4, reset="request") for engine in TIMED
    )
    np.testing.assert_array_equal(simpy.array(), compiled.array())


@pytest.mark.parametrize("engine", TIMED)
def test_rules_that_look_ahead_see_their_own_gpu(engine):
    """Four layers, two on each, and a rule that in a GPU's first layer fetches expert 5 of its next one.

    The host takes 10,000 ns per layer, which hide the copies of layers 1 and 3; those of 0 and 2 are waited for.
    """
    slow_host = machine(host_s_per_layer=10e-6)
    table = table_of(rows([[0], [5], [0], [5]]), fetching(first=5), engine, hardware=slow_host, slots_per_layer=1)
    columns = table.columns()
    assert columns["latency_ns"].tolist() == [4 * 10_000 + 2 * 1000]
    assert (columns["prefetch_used"].sum(), columns["demand_copies"].sum()) == (2, 2)


@pytest.mark.parametrize("policy", ["prefetch", "prefetch_end", "importance"])
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_gpu_decides_as_alone_with_its_layers(policy, cut):
    """Where copies take no time, what either decides is what it would decide of a model of its layers."""
    trace = random_trace(5, 5, 8, 2, prompts=(3, 0), decodes=(30, 20), expert_bytes=1000)
    fast, devices = machine(link_bytes_per_s=1e18), DevicesConfig(2, first_layers=cut, handover_s=0)
    found = {
        engine: table_of(trace, POLICIES[policy], engine, devices, fast, slots_per_layer=4).columns()
        for engine in TIMED
    }
    halves = [
        table_of(take_layers(trace, *own), POLICIES[policy], "compiled", DevicesConfig(), fast, slots_per_layer=4)
        for own in ((0, cut), (cut, 5))
    ]
    for name in ("hits", "prefetch_copies", "copied_bytes", "substituted_ranks"):
        both = sum(half.columns()[name] for half in halves)
        np.testing.assert_array_equal(found["compiled"][name], both)
        np.testing.assert_array_equal(found["simpy"][name], both)
    assert found["simpy"]["prefetch_copies"].sum() > 0


@pytest.mark.parametrize("engine", TIMED)
def test_storage_serves_both_and_each_has_its_share_of_host_memory(engine):
    """Host memory for four experts, two of each layer: 0 and 1 are read, then 0 lies there. With two, one of each."""
    trace, hardware = rows([[0], [0]], [[1], [1]], [[0], [0]]), machine(storage_rates=RATES)

    def latency_ns(num_bytes):
        host = HostConfig(bytes=num_bytes, start="cold")
        setup = DeviceSetup(
            BARE, hardware, CacheConfig(slots_per_layer=1), RunConfig(engine=engine), host=host,
            devices=DevicesConfig(2, handover_s=0),
        )  # fmt: skip
        table = StepTable(assemble(trace, setup)).run()
        return table.columns()["latency_ns"].tolist(), table.metrics()

    enough, metrics = latency_ns(4000)
    assert enough == [10_000, 10_000, 2000]
    assert metrics["host_hit_rate"] == 2 / 6
    assert metrics["storage_utilisation"] == pytest.approx(16_000 / 22_000)
    assert latency_ns(2000)[0] == [10_000, 10_000, 10_000]


@pytest.mark.parametrize("engine", TIMED)
def test_auto_gives_each_gpu_what_its_own_layers_leave(engine):
    """Of 10,000 bytes: 3 layers with 300 bytes of attention on one, 1 and a head of 4000 on the other.

    K and V take 60 bytes per token and layer, of 3 tokens at the end; staging slots take two experts.
    """
    trace = rows(*[[[0], [0], [0], [0]]] * 3, attention_bytes=(300,) * 4, shared_bytes=(0,) * 4, other_bytes=4000)
    trace = replace(trace, geometry=replace(trace.geometry, kv_bytes_per_token=60))
    cache = CacheConfig(bytes="auto", workspace_bytes=0)
    hardware = machine(gpu_memory_bytes=10_000)
    setup = DeviceSetup(
        BARE, hardware, cache, RunConfig(engine=engine), devices=DevicesConfig(2, first_layers=3)
    )  # fmt: skip
    replay = assemble(trace, setup)
    StepTable(replay).run()
    at_end = [int(device.cache_arrays["capacity"].sum()) for device in replay.devices]
    assert at_end == [3 * ((10_000 - 900 - 2000 - 9 * 60) // 3), 10_000 - 300 - 4000 - 2000 - 3 * 60]
    assert replay.pools.capacity.tolist() == [2246, 2246, 2246, 3580]  # means over steps, at 2 tokens


@pytest.mark.parametrize("engine", TIMED)
def test_drafts_come_ahead_of_both(engine):
    """With links that do not differ it is as on one GPU, whichever of them drafts."""
    trace = random_trace(3, 4, prompts=(4, 0), decodes=(9, 6), expert_bytes=1000)
    sizes = {"other_bytes": 4000, "attention_bytes": (300,) * 4, "shared_bytes": (70,) * 4, "hidden_size": 0}
    trace = replace(trace, geometry=replace(trace.geometry, kv_bytes_per_token=9, **sizes))
    both = []
    for devices in (DevicesConfig(), DevicesConfig(2, handover_s=0)):
        setup = DeviceSetup(
            BARE, machine(gpu_memory_bytes_per_s=1e9), CacheConfig(slots_per_layer=3), RunConfig(engine=engine),
            speculate=SpeculateConfig(2, 0.6, draft="mtp"), devices=devices,
        )  # fmt: skip
        both.append(StepTable(assemble(trace, setup)).run())
    np.testing.assert_array_equal(both[0].array(), both[1].array())
    assert both[0].metrics()["draft_s_per_token"] == both[1].metrics()["draft_s_per_token"] > 0


def test_what_binds_may_be_the_second_link():
    devices = DevicesConfig(2, second_link_bytes_per_s=1e8, handover_s=0)
    trace = random_trace(3, 2, prompts=(0, 0), decodes=(9, 9), expert_bytes=1000)
    setup = DeviceSetup(BARE, machine(), CacheConfig(slots_per_layer=2), RunConfig(engine="compiled"), devices=devices)
    rows = {row["name"]: row for row in what_if(assemble(trace, setup))["scenarios"]}
    assert rows["infinite second link"]["binds"] == "the second link"
    assert -1 < rows["infinite second link"]["change"] < -0.5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": replace(BARE, prediction=Drafts(), prefetch=TopScore())}, "looks at all layers of a step at once"),
        ({"run": RunConfig(engine="untimed")}, "this replay has no clock"),
        (
            {"speculate": SpeculateConfig(2), "cache": CacheConfig(bytes="auto")},
            "cache.bytes=auto does not know on which GPU the draft lies",
        ),
        (
            {"host": HostConfig(bytes=4000), "machine": machine(storage_rates=RATES), "policy": POLICIES["prefetch"]},
            "TopScore of policy prefetch reads in the background",
        ),
        (
            {"host": HostConfig(bytes=3000), "machine": machine(storage_rates=RATES)},
            "of 3e-06 GB of host memory for experts, layers 0 to 0 have 1.5e-06 GB, and the 2 that a token wants",
        ),
        ({"machine": machine(storage_rates=RATES, unified_memory=True)}, "has unified memory, and one GPU"),
        ({"devices": DevicesConfig(2, first_layers=2)}, "2 of 2 MoE layers on the first GPU leave none"),
    ],
)
def test_refusals(changes, sentence):
    fields = {"policy": BARE, "machine": machine(), "cache": CacheConfig(slots_per_layer=2)}
    fields |= {"devices": DevicesConfig(2)}
    with pytest.raises(UserError) as error:
        assemble(random_trace(1, 2, expert_bytes=1000), DeviceSetup(**(fields | changes)))
    assert sentence in str(error.value)
    with pytest.raises(UserError, match=r"of devices\.count=2"):
        DevicesConfig(first_layers=3)
