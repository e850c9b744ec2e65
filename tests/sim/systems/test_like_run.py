"""Systems of several devices with the parts of a run: what is taken, what is said, what is refused."""

import pytest

from sim.assembly.compose import compose_run
from sim.results.json_files import read_json
from sim.run.execute import execute
from traces.errors import UserError

FEW = ("trace.requests=2", "system.like_run=true", "hardware=rtx4090", "model=deepseek_moe_16b")


def test_the_cluster_takes_gpu_link_and_sizes(tmp_path):
    done = execute(compose_run("system=od_moe", *FEW, "system.workers=12"), tmp_path)
    used = read_json(tmp_path / "provenance.json")["config"]
    hardware = compose_run("hardware=rtx4090").hardware
    assert used["link_bytes_per_s"] == hardware.link_bytes_per_s
    assert used["gpu_flops_per_s"] == hardware.gpu_flops_per_s
    assert (used["workload"], used["model"], used["weight_bits"]) == ("trace", "trace", 16)
    assert "hardware rtx4090" in used["sources"]["link_bytes_per_s"]
    assert read_json(tmp_path / "metrics.json")["num_requests"] == 2
    assert "taken from the run: requests, sizes, GPU, link" in done.text
    assert "not taken: policy, cache, CPU and batch_size" in done.text


def test_a_slower_link_is_slower(tmp_path):
    found = []
    for rate in (25e9, 5e9):
        words = ("system=od_moe", *FEW, "system.workers=12", f"hardware.link_bytes_per_s={rate}")
        execute(compose_run(*words), tmp_path / f"{rate}")
        found.append(read_json(tmp_path / f"{rate}" / "metrics.json")["tpot_s.mean"])
    assert found[0] < found[1]


def test_the_package_takes_arithmetic_and_bandwidth(tmp_path):
    words = ("system=expert_streaming", *FEW, "system.draws=2", "batch_size=2")
    done = execute(compose_run(*words), tmp_path)
    used, hardware = read_json(tmp_path / "provenance.json")["config"], compose_run("hardware=rtx4090").hardware
    assert used["ddr_bytes_per_s"] == hardware.link_bytes_per_s / 4
    assert used["macs_per_cycle"] * used["clock_hz"] * 4 * 2 == pytest.approx(hardware.gpu_flops_per_s)
    assert (used["model"], used["tokens"], used["routing"]) == ("deepseek_moe_16b", 2, "trace")
    assert "spread over the memory channels" in done.text


def test_without_it_the_systems_say_what_they_do_not_take(tmp_path):
    done = execute(compose_run("system=expert_streaming", "system.draws=2", "system.tokens=2"), tmp_path)
    assert "not taken from the run: model, hardware, runtime, policy and cache" in done.text
    assert "system.like_run=true takes requests, sizes" in done.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["system=od_moe", *FEW, "system.link_bytes_per_s=1e9"], r"link_bytes_per_s=1000000000.0: system.like_run"),
        (["system=od_moe", "system.like_run=maybe"], "system.like_run=maybe: must be true or false"),
        (["system=expert_streaming", "system.like_run=true", "model=trace"], "bytes per expert|demo is no model"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(words, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        execute(compose_run(*words), tmp_path)
