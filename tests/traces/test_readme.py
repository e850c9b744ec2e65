"""The format's README: its example is run, and what it writes passes."""

import re
from pathlib import Path

import numpy as np
import pytest

from sim.commands.info import main
from traces.format.files import read_trace

README = Path(__file__).resolve().parents[2] / "traces/README.md"


def test_the_example_of_the_readme_writes_a_trace_that_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, read = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(write, {})
    exec(read, {})
    assert capsys.readouterr().out.startswith("10 ")
    assert main(["tiny.safetensors"]) == 0
    assert "gate slope h" in capsys.readouterr().out
    trace = read_trace("tiny.safetensors")
    assert trace.positions().tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert trace.gate_scores(0, 10).sum() == pytest.approx(10 * 2)
    np.testing.assert_allclose(trace.topk_weights.sum(-1), 1, rtol=1e-6)
