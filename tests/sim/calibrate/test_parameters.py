"""A calibration finds the machine that its samples were computed from, and leaves out what others disturbed."""

import numpy as np
import pytest

from sim.calibrate.hardware_file import as_yaml, hardware_of, table, write_hardware
from sim.calibrate.parameters import Parameters
from sim.machine.hardware import FIGURES, load_hardware
from tests.sim.calibrate.machines import TRUTH, calibrated_truth

MEASURED = (
    "gpu_memory_bytes_per_s", "gpu_flops_per_s", "link_latency_s", "link_bytes_per_s", "link_call_s", "launch_s",
    "cpu_expert_bytes_per_s", "cpu_flops_per_s", "host_s_per_layer", "decision_s_per_layer", "staging_bytes_per_s",
    "link_contention", "cpu_contention", "kernels_per_expert",
)  # fmt: skip


@pytest.mark.parametrize("loud_rounds", [0, 2])
def test_the_true_machine_is_found(loud_rounds):
    parameters = Parameters(calibrated_truth(4, loud_rounds))
    machine = hardware_of(parameters, "found")
    for name in MEASURED:
        assert getattr(machine, name) == pytest.approx(getattr(TRUTH, name), rel=2e-3), name
    assert np.abs(parameters.residuals).max() < 1e-3
    assert parameters.by_name["gpu_flops_per_s"].dropped == 9 * loud_rounds
    assert parameters.by_name["host_s_per_layer"].dropped == 2 * loud_rounds
    assert all(parameter.quiet for parameter in parameters.by_name.values())


def test_a_machine_that_is_never_quiet_is_said_to_be_so():
    parameters = Parameters(calibrated_truth(1, 4))
    assert not parameters.by_name["gpu_memory_bytes_per_s"].quiet
    assert "NOT QUIET" in table(parameters)
    assert "NOT QUIET" in hardware_of(parameters, "loud").sources["gpu_memory_bytes_per_s"]
    assert "WARNING" not in table(Parameters(calibrated_truth()))


def test_the_file_holds_what_was_found(tmp_path):
    parameters = Parameters(calibrated_truth())
    path = tmp_path / "mine.yaml"
    written = write_hardware(path, parameters)
    assert written == load_hardware(str(path))
    stated = {name for name in FIGURES if getattr(written, name) is not None}
    assert stated - written.sources.keys() == set(OF_A_KIND_THAT_WAS_NOT_MEASURED)
    assert written.sources["link_bytes_per_s"].startswith("EMULATED")
    assert written.label == "FITTED"
    assert written.uncertainty.keys() <= set(FIGURES)
    assert path.read_text().startswith("# Measured by python -m sim calibrate")
    assert as_yaml(written, "again").split("\n", 1)[1] == path.read_text().split("\n", 3)[3]


OF_A_KIND_THAT_WAS_NOT_MEASURED = ("pageable_latency_s", "pageable_call_s")
