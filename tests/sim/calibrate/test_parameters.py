"""A calibration finds the machine that its samples were computed from, and leaves out what others disturbed."""

import numpy as np
import pytest

from sim.calibrate.hardware_file import as_yaml, machine_of, table, write_machine
from sim.calibrate.parameters import Parameters
from sim.machine.figures import Figures, parameters_of
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.runtime import load_runtime
from tests.sim.calibrate.machines import TRUTH, calibrated_truth

MEASURED = (
    "gpu_memory_bytes_per_s", "gpu_flops_per_s", "link_latency_s", "link_bytes_per_s", "link_call_s", "launch_s",
    "cpu_memory_bytes_per_s", "cpu_core_flops_per_s", "cpu_cores", "host_s_per_layer", "decision_s_per_layer",
    "staging_bytes_per_s", "link_contention", "cpu_contention", "kernels_per_expert",
)  # fmt: skip


@pytest.mark.parametrize("loud_rounds", [0, 2])
def test_the_true_machine_is_found(loud_rounds):
    parameters = Parameters(calibrated_truth(4, loud_rounds))
    machine = machine_of(parameters, "found")
    for name in MEASURED:
        assert machine.figure(name) == pytest.approx(TRUTH.figure(name), rel=2e-3), name
    assert np.abs(parameters.residuals).max() < 1e-3
    assert parameters.by_name["gpu_flops_per_s"].dropped == 9 * loud_rounds
    assert parameters.by_name["host_s_per_layer"].dropped == 2 * loud_rounds
    assert all(parameter.quiet for parameter in parameters.by_name.values())


@pytest.mark.slow
def test_a_machine_that_is_never_quiet_is_said_to_be_so():
    parameters = Parameters(calibrated_truth(1, 4))
    assert not parameters.by_name["gpu_memory_bytes_per_s"].quiet
    assert "NOT QUIET" in table(parameters)
    assert "NOT QUIET" in machine_of(parameters, "loud").hardware.sources["gpu_memory_bytes_per_s"]
    assert "WARNING" not in table(Parameters(calibrated_truth()))


def test_the_files_hold_what_was_found(tmp_path):
    parameters = Parameters(calibrated_truth())
    path, runtime_path = tmp_path / "mine.yaml", tmp_path / "its runtime.yaml"
    written = write_machine(path, runtime_path, parameters)
    assert written == Machine(load_hardware(str(path)), load_runtime(str(runtime_path)))
    assert written.hardware.sources["link_bytes_per_s"].startswith("EMULATED")
    assert written.hardware.label == "FITTED"
    assert written.runtime.label == "FITTED"

    def check(file: Figures, at, not_measured: set[str]) -> None:
        figures = parameters_of(type(file))
        stated = {name for name in figures if getattr(file, name) is not None}
        assert stated - file.sources.keys() == not_measured
        assert file.uncertainty.keys() <= set(figures)
        assert at.read_text().startswith("# Measured by python -m sim calibrate")
        assert as_yaml(file, "again").split("\n", 1)[1] == at.read_text().split("\n", 3)[3]

    check(written.hardware, path, {"link_half_bytes", "pageable_latency_s"} - written.hardware.sources.keys())
    check(written.runtime, runtime_path, {"pageable_call_s", "gpu_memory_share", "cpu_transfer_s", "install_s"})
