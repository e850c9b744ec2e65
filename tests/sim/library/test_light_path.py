"""Replays, sweeps, figures and reports work where torch cannot be imported; what needs it says so."""

import json
import os
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from scripts.maintenance.lock import HEAVY
from sim.paths import ROOT

WITHOUT = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
SMALL = ["policy=importance", "engine=compiled", "trace.requests=2"]


def without_torch(folder, code):
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=folder, env=variables, capture_output=True,
                          text=True, timeout=300)  # fmt: skip


def commands(*words):
    return f"from sim.__main__ import main\nfor words in {list(words)!r}:\n    print(words[0], main(words))\n"


@pytest.mark.slow
def test_a_run_and_the_library_work_and_what_needs_torch_says_so(tmp_path):
    runs = commands(["run", *SMALL, "out=one", "quiet=true"], ["record", "model=demo"])
    done = without_torch(
        tmp_path, runs + "import sim; print(sim.replay(policy='lru', cache=0.5).metrics['hit_rate'] > 0)"
    )
    assert done.stdout.split() == ["run", "0", "record", "2", "True"], done.stderr
    said = [line for line in done.stderr.splitlines() if "torch" in line]
    assert said == [
        "error: torch is not installed, and this needs it: pip install moe-offload-sim, with all it depends on"
    ]
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["decode.hit_rate"] > 0


@pytest.mark.slow
def test_sweeps_figures_reports_and_comparisons_work(tmp_path):
    words = ["policy=lru,importance", "engine=compiled", "trace.requests=4", "hydra.sweep.dir=sweep"]
    more = (["plot", "sweep", "figure=attribution", "out=figures"], ["report", "sweep"], ["compare", "sweep"],
            ["gather", "sweep"], ["info", "demo"], ["policies"], ["check-policy", "eviction/lru"])  # fmt: skip
    for one in (["run", "-m", *words], *more):
        done = without_torch(tmp_path, commands(one))
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{one[0]} 0", done.stderr


@pytest.mark.slow
def test_the_benchmark_ranks_what_needs_no_measured_quality(tmp_path):
    done = without_torch(tmp_path, commands(["bench", "policy=importance", "policy=lru"]))
    assert done.stdout.splitlines()[-1] == "bench 0", done.stderr
    assert "importance: quality not measured: torch is not installed" in done.stdout
    assert "\nlru: place " in done.stdout and "\nimportance: place" not in done.stdout


def test_the_list_of_what_the_light_path_needs_is_complete():
    listed = dict(line.split("==") for line in (ROOT / "requirements" / "core.txt").read_text().splitlines()
                  if "==" in line)  # fmt: skip
    tested = dict(line.split("==") for line in (ROOT / "requirements" / "ci.txt").read_text().splitlines()
                  if "==" in line)  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(text) for text in project["dependencies"]]
    assert {need.name for need in needed} - set(HEAVY) <= set(listed) and not set(HEAVY) & set(listed)
    assert all(tested[name] == number for name, number in listed.items())
    assert all(need.specifier.contains(listed[need.name]) for need in needed if need.name in listed)
