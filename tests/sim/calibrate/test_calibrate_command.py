"""The command measures, writes a file that `run` accepts, and refuses what cannot be measured in one sentence."""

import json
import subprocess
import sys

import pytest
import torch

from sim.commands.calibrate import configured
from sim.machine.hardware import load_hardware
from traces.errors import UserError

SMALL = ["seconds=1", "portion_s=0.02", "hidden_size=32", "expert_ffn=32", "attention_bytes=4096", "trace.requests=6"]


def sim(*words, folder):
    command = [sys.executable, "-m", "sim", *words, f"hydra.run.dir={folder}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_calibrated_machine_can_be_run(tmp_path):
    path = tmp_path / "this machine.yaml"
    done = sim("calibrate", *SMALL, f"out='{path}'", folder=tmp_path / "calibrate")
    assert done.returncode == 0, done.stderr
    assert "host_s_per_layer" in done.stdout
    machine = load_hardware(str(path))
    assert machine.name == "this machine"
    assert machine.gpu_memory_bytes_per_s > 0
    assert machine.sources["link_bytes_per_s"].startswith("EMULATED")
    assert machine.link_bytes_per_s <= 2.1e9
    samples = json.loads((tmp_path / "calibrate" / "samples.json").read_text())
    assert {sample["kind"] for sample in samples} >= {"hits", "misses", "copy", "expert", "cpu", "decision"}
    replayed = sim(
        "run", "policy=lru", "engine=compiled", "trace.requests=1", f"hardware={path}",
        f"runtime={tmp_path / 'this machine_runtime.yaml'}", folder=tmp_path / "run",
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["tpot_s.mean"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_cuda_device_one_sentence_says_so(tmp_path):
    done = sim("calibrate", "device=cuda", "link_bytes_per_s=null", folder=tmp_path / "out")
    assert done.returncode == 2
    assert "torch sees no CUDA device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"secs": 3.0}, "secs is not a field"),
        ({"seconds": 0.0}, "seconds=0"),
        ({"hits_fraction": 0.1, "misses_fraction": 0.2}, "below hits_fraction"),
        ({"device": "tpu"}, "device=tpu"),
        ({"hidden_size": "wide"}, "hidden_size=wide"),
    ],
)
def test_bad_knobs_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        configured(values)
