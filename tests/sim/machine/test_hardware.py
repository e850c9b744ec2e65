"""The schema of a machine: what it refuses, and that every figure of every shipped file says where it comes from."""

from dataclasses import asdict
from typing import Any

import pytest

from sim.machine.figures import LABELS
from sim.machine.hardware import (
    FIGURES,
    Hardware,
    hardware_from_config,
    hardware_names,
    load_hardware,
    read_hardware,
)
from traces.errors import UserError

PLAIN: dict[str, Any] = {
    "name": "plain",
    "gpu_memory_bytes": 10**9,
    "gpu_memory_bytes_per_s": 1e11,
    "gpu_flops_per_s": 1e13,
    "link_latency_s": 0.0,
    "link_bytes_per_s": 1e10,
}


@pytest.mark.parametrize("name", hardware_names())
def test_every_shipped_figure_has_a_source(name: str) -> None:
    machine = load_hardware(name)
    assert machine.name == name
    stated = {figure for figure in FIGURES if getattr(machine, figure) is not None}
    assert stated <= machine.sources.keys()
    weakest = max(LABELS.index(source.split(":")[0]) for source in machine.sources.values())
    assert machine.label == LABELS[weakest]
    assert all(len(source.split(":", 1)[1]) > 10 for source in machine.sources.values())


def test_the_shipped_machines() -> None:
    assert {"s1_rtx3080ti", "s2_rtx4060ti", "s3_a6000", "rtx4090"} <= set(hardware_names())
    assert load_hardware("s2_rtx4060ti").link_bytes_per_s == 6.5e9  # eight lanes
    assert load_hardware("s3_a6000").sources["cpu_core_bytes_per_s"].startswith("MEASURED")
    assert load_hardware("s1_rtx3080ti").sources["cpu_core_bytes_per_s"].startswith("ESTIMATED")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"link_bytes_per_s": 0}, "link_bytes_per_s=0: must be above 0"),
        ({"link_latency_s": -1e-6}, "link_latency_s=-1e-06: must be at least 0"),
        ({"link_contention": 0.5}, "link_contention=0.5: must be at least 1"),
        ({"cpu_cores": 2.5}, "cpu_cores=2.5 must be a whole number"),
        ({"gpu_flops_per_s": "fast"}, "gpu_flops_per_s='fast' must be a finite number"),
        ({"gpu_flops_per_s": float("nan")}, "gpu_flops_per_s=nan must be a finite number"),
        ({"link_half_bytes": None}, "link_half_bytes=None must be a finite number"),
        ({"link_half_bytes": True}, "link_half_bytes=True must be a finite number"),
        ({"label": "GUESSED"}, "label='GUESSED' is not one of MEASURED, PUBLISHED, EMULATED, FITTED, ESTIMATED"),
        ({"sources": {"speed": "MEASURED: here"}}, "sources.speed names no figure"),
        ({"sources": {"link_half_bytes": "somewhere"}}, "must begin with one of MEASURED"),
        (
            {"sources": {"link_half_bytes": "ESTIMATED: a guess"}, "label": "MEASURED"},
            "claims more than its weakest source",
        ),
        ({"uncertainty": {"speed": 0.1}}, "uncertainty.speed names no figure"),
        ({"uncertainty": {"link_half_bytes": -0.1}}, "uncertainty.link_half_bytes=-0.1 must be 0 or above"),
        ({"link_gbps": 16}, "link_gbps is not a field"),
        ({"link_bytes_per_s": None}, "link_bytes_per_s is missing"),
    ],
)
def test_bad_figures_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        hardware_from_config({**PLAIN, **change})
    assert sentence in str(error.value)
    assert "hardware plain" in str(error.value)


def test_cpu_is_optional() -> None:
    assert not Hardware(**PLAIN).has_cpu
    assert Hardware(**PLAIN, cpu_core_bytes_per_s=1e9).has_cpu
    assert Hardware(**PLAIN, cpu_memory_bytes_per_s=1e10).has_cpu


def test_unknown_machine_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"hardware=a100 is not known: choose one of .*rtx4090"):
        load_hardware("a100")


def test_config_round_trip() -> None:
    machine = load_hardware("rtx4090")
    assert hardware_from_config(asdict(machine)) == machine


def test_a_machine_is_read_from_a_path(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "\n".join(f"{key}: {value}" for key, value in PLAIN.items()) + "\nuncertainty:\n  link_half_bytes: 0.05\n"
    )
    assert load_hardware(str(path)) == read_hardware(path)
    assert load_hardware(str(path)).uncertainty == {"link_half_bytes": 0.05}
    with pytest.raises(UserError, match="there is no such file"):
        load_hardware("nowhere.yaml")
