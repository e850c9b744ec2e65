"""The probe of this machine: a hardware file that is read back and forecast from; a GPU's figures by its name."""

from pathlib import Path

import pytest

from sim.forecast import probe as probing
from sim.forecast import probe_found, probe_gpu, probe_host
from sim.forecast.probe import probe
from sim.forecast.read_machine import read_machine
from sim.forecast.shipped import shares_of, shipped_parameters
from sim.machine.hardware import Hardware


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_host, "STREAM_BYTES", 2**24)
    monkeypatch.setattr(probe_host, "STORAGE_BYTES", 2**23)
    monkeypatch.setattr(probe_found, "ROUNDS", 3)
    monkeypatch.setattr(probing, "probe_cuda", lambda found, when: False)


def test_a_machine_without_a_gpu(tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_gpu, "_driver_says", lambda: None)
    found = probe(tmp_path / "here.yaml")
    assert found == Hardware.read(tmp_path / "here.yaml")
    assert found.cpu_memory_bytes_per_s is not None
    assert found.sources["cpu_memory_bytes_per_s"].startswith("MEASURED: ")
    text = (tmp_path / "here.yaml").read_text()
    assert "RAM streamed (read) at" in text
    machine = read_machine(str(tmp_path / "here.yaml"), shares_of(shipped_parameters()))
    assert not machine.has_gpu
    assert "GPU none" in machine.known[0]
    assert not list(tmp_path.glob(".probe-*"))


def test_a_gpu_that_the_driver_names_has_its_datasheets_rates(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_gpu, "_driver_says", lambda: ("NVIDIA GeForce RTX 4090", 24564.0, 4, 16))
    found = probe(tmp_path / "mine.yaml")
    assert found.gpu_memory_bytes == 24564 * 2**20
    assert found.gpu_memory_bytes_per_s == 1008e9
    assert found.sources["gpu_memory_bytes_per_s"].startswith("PUBLISHED: GeForce RTX 4090")
    assert found.sources["link_bytes_per_s"].startswith("ESTIMATED")
    assert found.label == "ESTIMATED"
    assert read_machine(str(tmp_path / "mine.yaml"), shares_of(shipped_parameters())).has_gpu
