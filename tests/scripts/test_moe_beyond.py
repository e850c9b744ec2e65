"""`scripts/studies/systems/moe_beyond.py` prints both tables on a small trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_predictors import KINDS, request_trace, untrained
from traces.format.files import read_trace, write_trace

ROOT = Path(__file__).resolve().parents[2]


def script(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "scripts.studies.systems.moe_beyond", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.slow
def test_requests_can_be_shuffled_and_bad_input_is_one_sentence(tmp_path):
    write_trace(tmp_path / "t.safetensors", request_trace())
    assert script("--mix", tmp_path / "t.safetensors", "--out", tmp_path / "m.safetensors").returncode == 0
    assert read_trace(tmp_path / "m.safetensors").num_requests == 4
    done = script("--trace", tmp_path / "t.safetensors")
    assert done.returncode == 2 and done.stderr.startswith("error: policy.prediction.checkpoint=embedded: it predicts")


@pytest.mark.slow
def test_both_tables(tmp_path):
    pytest.importorskip("policies.prefetch.top_n", reason="the rule that the policy moe_beyond prefetches by")
    trace = write_trace(tmp_path / "t.safetensors", request_trace())
    untrained(trace, KINDS["tokens"], tmp_path / "p.safetensors", fit_requests=2)
    files = ["--trace", tmp_path / "t.safetensors", "--checkpoint", tmp_path / "p.safetensors"]
    done = script(*files, "--fractions", "0.5,1", "--links", "4,16", "--model", "trace")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("2 requests, ")  # the other two were learned from
    assert lines[2].split()[0] == "50.0%" and lines[3].split()[0] == "100.0%"
    assert "moe_beyond" in done.stdout and "belady" in done.stdout and "not counted" in done.stdout
