"""The policy that CONTRIBUTING.md adds works when one follows the text to the letter."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.random_traces import random_trace
from traces.format.files import write_trace

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_adding_a_policy_as_written(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for folder in ("sim", "policies", "traces", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    blocks = {}
    for kind in ("python", "yaml"):
        block = re.search(rf"   ```{kind}\n(.*?)   ```", text, re.DOTALL)
        blocks[kind] = "".join(line.removeprefix("   ") + "\n" for line in block.group(1).splitlines())
    paths = re.findall(r"`((?:policies|conf/policy)/eviction/last_score\.\w+)`", text)
    for path, kind in zip(paths, ("python", "yaml"), strict=True):
        (tmp_path / path).write_text(blocks[kind])
    command = re.search(r"`python (-m sim run policy=lru policy/eviction=last_score)`", text).group(1)
    write_trace(tmp_path / "t.safetensors", random_trace(0))
    done = subprocess.run(
        [sys.executable, *command.split(), "trace.path=t.safetensors", f"hydra.run.dir={tmp_path / 'out'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "metrics.json").exists()
