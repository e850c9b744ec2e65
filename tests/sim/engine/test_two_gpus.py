"""Layers split over two GPUs: they run by turns, and each has a link and slots of its own."""

from dataclasses import replace

import numpy as np
import pytest

from policies.assignment.cpu_only import CpuOnly
from policies.prefetch.promote_missed import PromoteMissed
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, SpeculateConfig
from sim.machine.capacity import CacheConfig
from sim.machine.devices import DevicesConfig
from sim.machine.host_store import HostConfig
from sim.metrics.step_table import StepTable
from sim.run.what_if import what_if
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine
from tests.support.timelines import TIMED, rows
from traces.errors import UserError

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
@pytest.mark.parametrize("policy", ["lru", "score_window", "cpu", "on_demand"])
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
        ({"policy": POLICIES["importance"]}, "looks from layer to layer or ahead in time"),
        ({"run": RunConfig(engine="untimed")}, "this replay has no clock"),
        ({"speculate": SpeculateConfig(2)}, "speculate.tokens=2: drafts run on one GPU"),
        (
            {"host": HostConfig(bytes=2000), "machine": machine(storage_rates=[[1000, 1, 1e9, 1e9]])},
            "storage behind host memory is replayed with one GPU only",
        ),
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
