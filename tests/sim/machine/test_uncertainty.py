"""How much of each part of the time rests on each figure: against the formulas, by hand."""

from dataclasses import replace

import pytest

from sim.config import TimeConfig
from sim.machine.machine import Machine
from sim.machine.uncertainty import elasticities
from tests.support.replays import machine
from traces.format.trace import Geometry

SHAPE = Geometry("small", 3, 8, 2, expert_bytes=(10_000_000,) * 3, attention_bytes=(1_000_000,) * 3)
ERRORS = {
    "link_bytes_per_s": 0.1, "link_latency_s": 1.0, "host_s_per_layer": 1.0, "decision_s_per_layer": 1.0,
    "gpu_memory_bytes_per_s": 0.1, "launch_s": 0.2,
}  # fmt: skip


def with_errors(found: Machine) -> Machine:
    of_hardware = {name: error for name, error in ERRORS.items() if hasattr(found.hardware, name)}
    of_runtime = {name: error for name, error in ERRORS.items() if hasattr(found.runtime, name)}
    return Machine(replace(found.hardware, uncertainty=of_hardware), replace(found.runtime, uncertainty=of_runtime))


def test_of_figures_behind_one_part_each_has_its_share():
    """A copy is 10 us and 10 MB at 10 GB/s: 1 % of it is the latency. The host decides 3 of its 4 parts."""
    stated = machine(
        link_bytes_per_s=1e10, link_latency_s=1e-5, host_s_per_layer=1e-4, decision_s_per_layer=3e-4,
        gpu_memory_bytes_per_s=1e12,
    )  # fmt: skip
    found = elasticities(SHAPE, with_errors(stated), TimeConfig(), resident=False)
    assert found["link_latency_s"] == {"link": pytest.approx(1e-5 / 1.01e-3, abs=2e-4)}
    assert found["link_bytes_per_s"]["link"] == pytest.approx(-1e-3 / 1.01e-3, rel=0.02)
    assert found["host_s_per_layer"] == {"host": pytest.approx(0.25, abs=1e-3)}
    assert found["decision_s_per_layer"] == {"host": pytest.approx(0.75, abs=1e-3)}
    assert found["gpu_memory_bytes_per_s"] == {
        "attention": pytest.approx(-1, rel=0.02), "expert": pytest.approx(-1, rel=0.02),
    }  # fmt: skip


def test_what_is_switched_off_or_not_paid_moves_nothing():
    stated = with_errors(machine(host_s_per_layer=1e-4, decision_s_per_layer=3e-4))
    assert elasticities(SHAPE, stated, TimeConfig(link=False), resident=False).get("link_bytes_per_s", {}) == {}
    assert elasticities(SHAPE, stated, TimeConfig(), resident=True)["decision_s_per_layer"] == {}
