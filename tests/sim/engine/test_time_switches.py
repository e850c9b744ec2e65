"""Every switch of the time model: off, exactly its part is gone; alone, exactly its part is left."""

from dataclasses import fields, replace
from typing import Any

import pytest

from sim.config import TimeConfig
from sim.machine.machine import PARAMETERS
from tests.support.fixed_rules import LastOnCpu, LowUntil
from tests.support.replays import BARE, machine
from tests.support.timelines import TIMED, rows, timed

pytestmark = pytest.mark.parametrize("engine", TIMED)

# Two layers, one decode step on a context of one prompt token; every term has a time of its own (in ns below).
TRACE = rows(
    [[0], [0]], [[1], [2]], prompt=1, attention_bytes=(11, 11), shared_bytes=(13, 13), other_bytes=17,
    kv_bytes_per_token=3,
)  # fmt: skip
MACHINE = machine(
    gpu_memory_bytes_per_s=1e9, launch_s=1e-9, kernels_per_expert=19, kernels_per_layer=23, readback_s=29e-9,
    sync_s=31e-9, host_s_per_layer=37e-9, decision_s_per_layer=41e-9, link_call_s=43e-9, dequantise_bytes_per_s=1e8,
    link_contention=2.0, cpu_contention=3.0,
)  # fmt: skip
SWITCHES = [field.name for field in fields(TimeConfig)]
HELD: dict[str, Any] = {"policy": "lru", "slots_per_layer": 4, "start": "warm"}
"""Experts are offloaded, and all of them have a slot and lie in it."""
# Of the decode step, when nothing is copied: (part, ns).
COMPUTED = {
    "attention": ("attention", 2 * (11 + 2 * 3)),
    "experts": ("expert", 2 * 1000),
    "shared_experts": ("expert", 2 * 13),
    "head": ("attention", 17),
    "launch": ("launch", 2 * (19 + 23)),
    "readback": ("sync", 2 * 29),
    "sync": ("sync", 2 * 31),
    "host": ("host", 2 * 37),
    "decision": ("host", 2 * 41),
}


def all_but(*names):
    return {name: name not in names for name in SWITCHES}


def only(*names):
    return {name: name in names for name in SWITCHES}


def parts_of(policy, engine, time, **knobs):
    """What a decode step spends, in ns by part, and in all."""
    found = timed(TRACE, policy, MACHINE, engine=engine, time=time, **knobs)
    parts = {key: found.metrics.get(f"time_s_per_token.{key}", 0.0) * 1e9 for key in found.parts_ns}
    assert sum(parts.values()) == pytest.approx(found.latency_ns[-1])
    return {key: round(spent) for key, spent in parts.items() if spent}, found.latency_ns[-1]


def test_every_switch_is_tested(engine):
    assert set(COMPUTED) | {"link", "link_call", "contention", "dequantise", "cpu_transfer"} | {
        "storage",
        "install",
    } == set(SWITCHES)


def test_every_constant_of_a_layer_has_a_switch_and_a_part(engine):
    constants = {p.switch: p.parts for p in PARAMETERS.values() if p.each_layer}
    assert constants == {name: (COMPUTED[name][0],) for name in constants}


def test_with_every_term_off_nothing_takes_time(engine):
    assert parts_of("on_demand", engine, only()) == ({}, 0)


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_alone_a_computed_term_is_all_there_is(engine, name):
    part, spent_ns = COMPUTED[name]
    assert parts_of(engine=engine, time=only(name), **HELD) == ({part: spent_ns}, spent_ns)


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_off_a_computed_term_takes_exactly_its_part_away(engine, name):
    whole, whole_ns = parts_of(engine=engine, time=only(*SWITCHES), **HELD)
    assert whole_ns == sum(spent_ns for _, spent_ns in COMPUTED.values())
    left, left_ns = parts_of(engine=engine, time=all_but(name), **HELD)
    part, spent_ns = COMPUTED[name]
    assert left_ns == whole_ns - spent_ns
    assert left == {key: spent - spent_ns * (key == part) for key, spent in whole.items() if spent > spent_ns * (key == part)}  # noqa: E501  # fmt: skip


def test_the_link(engine):
    """Alone 1000 ns per miss; off, no wait is left, whatever else takes time."""
    assert parts_of("on_demand", engine, only("link")) == ({"link": 2000}, 2000)
    without, _ = parts_of("on_demand", engine, all_but("link"))
    assert without == parts_of(engine=engine, time=all_but("link"), **HELD)[0] | {"host": 2 * (37 + 41 + 43)}


def test_issuing_copies(engine):
    assert parts_of("on_demand", engine, only("link_call")) == ({"host": 2 * 43}, 2 * 43)
    assert parts_of("on_demand", engine, only("link_call", "link")) == ({"host": 86, "link": 2000 - 86}, 2000)
    assert parts_of("on_demand", engine, all_but("link_call"))[0]["host"] == 2 * (37 + 41)


def test_the_links_switch_covers_every_copy(engine):
    """Victims on their way home and staged copies too."""
    policy = replace(BARE, write_back="serial")
    hardware = MACHINE.with_figures({"staging_bytes_per_s": 1e9, "memory": "staged"})
    knobs = {"engine": engine, "slots_per_layer": 1}
    whole = timed(TRACE, policy, hardware, time=only("link"), **knobs)
    assert whole.latency_ns == [4000, 6000]
    off = timed(TRACE, policy, hardware, time=only(), **knobs)
    assert off.latency_ns == [0, 0]


def test_experts_covers_the_cpu(engine):
    """500 ns on the CPU in each layer with ``experts`` alone."""
    policy = replace(BARE, assignment=LastOnCpu(1))
    assert parts_of(policy, engine, only("experts"), slots_per_layer=1) == ({"cpu": 1000}, 1000)
    assert parts_of(policy, engine, only("link"), slots_per_layer=1) == ({}, 0)


@pytest.mark.parametrize("memory", ["pageable", "staged"])
def test_how_experts_lie_in_host_memory_does_not_change_the_cpu(engine, memory):
    """The CPU reads its DRAM either way."""
    policy = replace(BARE, assignment=LastOnCpu(1))
    hardware = MACHINE.with_figures({"pageable_bytes_per_s": 1e8, "staging_bytes_per_s": 1e8, "memory": memory})
    found = timed(TRACE, policy, hardware, engine=engine, slots_per_layer=1, time=only("experts"))
    assert found.latency_ns == [1000, 1000]


def test_contention(engine):
    """Experts 1 and 2 in one layer: over the link 1000 ns, or 2000 beside the CPU; there 500 ns, or 1500."""
    policy, trace = replace(BARE, assignment=LastOnCpu(1)), rows([[1, 2]])
    for on, latency_ns in ((True, 2000), (False, 1000)):
        time = only("link", "experts") | {"contention": on}
        fast = MACHINE.with_figures({"gpu_memory_bytes_per_s": 1e18})
        assert timed(trace, policy, fast, engine=engine, time=time).latency_ns == [latency_ns]


def test_dequantisation(engine):
    """250 bytes in 250 ns; expanding to 1000 bytes at 0.1 byte/ns."""
    policy = replace(BARE, substitution=LowUntil(9))
    assert parts_of(policy, engine, only("dequantise")) == ({"expert": 20000}, 20000)
    assert parts_of(policy, engine, only("link")) == ({"link": 500}, 500)
    # the second copy of a layer hides nothing, as each layer demands one expert
    assert parts_of(policy, engine, only("link", "dequantise")) == ({"expert": 20000, "link": 500}, 20500)


def test_only_offloading_pays_for_looking_up_reading_back_and_synchronising(engine):
    whole = parts_of("all_resident", engine, all_but())[0]
    held = parts_of(engine=engine, time=all_but(), **HELD)[0]
    assert {part: spent - whole.get(part, 0) for part, spent in held.items() if spent != whole.get(part, 0)} == {
        "sync": 2 * (29 + 31), "host": 2 * 41
    }  # fmt: skip


def test_activations_to_the_cpu_and_back(engine):
    """60 ns once in each layer of which the CPU computes experts, one or two; nothing where it computes none."""
    slow = machine(cpu_transfer_s=60e-9)
    trace = rows([[1, 2]], [[0, 3]])
    for on, extra_ns in ((True, 60), (False, 0)):
        time = only("experts") | {"cpu_transfer": on}
        for on_cpu, cpu_ns in ((0, 0), (1, 500), (2, 1000)):
            policy = replace(BARE, assignment=LastOnCpu(on_cpu))
            found = timed(trace, policy, slow, engine=engine, time=time, slots_per_layer=1)
            assert found.latency_ns == [cpu_ns + extra_ns * (on_cpu > 0)] * 2
