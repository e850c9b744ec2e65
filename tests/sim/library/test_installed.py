"""What is installed works in an empty folder: the console script, the wheel, a rule beside nothing else."""

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sim.paths import ROOT
from tests.sim.assembly.test_rule_files import MRU

SCRIPT = "import sys; from sim.__main__ import command; sys.argv = ['moe-sim', *sys.argv[1:]]; command()"


def environment(site):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PYTHONPATH": str(site)}


def moe_sim(folder, site, *words):
    return subprocess.run([sys.executable, "-c", SCRIPT, *words], cwd=folder, env=environment(site),
                          capture_output=True, text=True, timeout=300)  # fmt: skip


def test_the_console_script_is_the_command(tmp_path):
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["moe-sim"]
    module, _, name = stated.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    done = moe_sim(tmp_path, ROOT, "--version")
    assert done.returncode == 0 and done.stdout.strip()
    wrong = moe_sim(tmp_path, ROOT, "rum")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: rum is not a command")


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder_with_a_rule_of_ones_own(tmp_path):
    source, site, folder = (tmp_path / name for name in ("source", "site", "empty"))
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("sim", "policies", "traces", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(source / built.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    folder.mkdir()
    (folder / "mru.py").write_text(MRU.format(name="Mru"))
    words = ["policy=lru", "policy/eviction=mru.py", "engine=compiled", "trace.requests=2", "out=here"]
    done = moe_sim(folder, site, "run", *words)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == ["here", "mru.py"]
    assert moe_sim(folder, site, "check-policy", "mru.py").returncode == 0
    python = "import sim; print(sim.replay(policy='mru.py', cache=0.25).metrics['hit_rate'] > 0, sim.__file__)"
    done = subprocess.run([sys.executable, "-c", python], cwd=folder, env=environment(site), capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.split()[0] == "True" and Path(done.stdout.split()[1]).is_relative_to(site)
