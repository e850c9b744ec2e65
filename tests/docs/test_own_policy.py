"""The page on policies of one's own, followed to the letter: its folder is empty, the package an installed wheel."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

from sim.paths import ROOT

PAGE = (ROOT / "docs" / "own_policy.md").read_text()
SMALL = ["trace.requests=4", "engine=compiled"]


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def build_wheel(source):
    """The wheel of this tree, built in a copy of it."""
    for name in ("sim", "policies", "traces", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    return build_package(source)


def build_package(source):
    """The wheel of the project in a folder."""
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    return source / built.stdout.split()[-1]


def without_source():
    """Variables of the environment, but for a path that leads to this tree."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory):
    """Of a clean environment into which the wheel was installed; what it depends on is that of this environment."""
    folder = tmp_path_factory.mktemp("clean")
    wheel = build_wheel(folder / "source")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    installs = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(installs, env=without_source(), check=True)
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    (Path(site) / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python.parent


@pytest.mark.slow
def test_the_page_works_as_written_from_a_wheel(bin_folder, tmp_path):
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    variables = without_source() | {"MOE_SIM_CACHE": str(tmp_path / "cache"), "PATH": path}
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*words):
        done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rule, script, spared, substitution = blocks("python")
    (folder / "last_score.py").write_text(rule)
    (folder / "close_enough.py").write_text(substitution)
    (folder / "spared.py").write_text(spared)
    (policy,) = blocks("yaml")
    (folder / "mine.yaml").write_text(policy)
    where = run("python", "-c", "import sim, policies, traces; print(sim.__file__, policies.__file__, traces.__file__)")
    assert all(Path(file).is_relative_to(bin_folder.parent) for file in where.split())

    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    *commands, check, replaced = commands
    assert [words[1] for words in commands] == ["check-policy", "run", "run", "compare", "run", "bench", "bench"]
    assert commands.pop()[:3] == ["moe-sim", "bench", "all"]  # minutes: every shipped policy again
    assert "no decision depends on later steps" in run(*check)
    assert "not tested: one_layer of Spared" in run("moe-sim", "check-policy", "spared.py")
    assert "substitution=close_enough.py" in run(*replaced, *SMALL)
    said = [run(*words, *(SMALL if words[1] == "run" else [])) for words in commands]
    assert len([*folder.glob("outputs/sweep/mine/lru_*/metrics.json")]) == 4
    assert "ratio_low" in run("python", "-c", script)

    board = pd.read_csv(folder / "board" / "leaderboard.csv").set_index("policy")
    assert board.loc["mine", "class"] == "lossless" and 0 < board.loc["mine", "score"] < 1
    assert re.search(r"^mine: place \d+ of \d+ in its class", said[-1], re.MULTILINE)
    assert "mine" in (folder / "board" / "leaderboard.html").read_text()
    made = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert made == {"last_score.py", "close_enough.py", "spared.py", "mine.yaml", "outputs", "board"}


@pytest.mark.slow
def test_an_installed_package_offers_its_rule_by_the_name_of_the_page(bin_folder, tmp_path):
    """A package of two files, built and installed beside the wheel."""
    package = tmp_path / "package"
    (package / "my_package").mkdir(parents=True)
    (package / "my_package" / "__init__.py").write_text("")
    (package / "my_package" / "last_score.py").write_text(blocks("python")[0])
    (points,) = blocks("toml")
    head = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n[project]\n'
    (package / "pyproject.toml").write_text(f'{head}name = "my-package"\nversion = "1"\n\n{points}')
    variables = without_source() | {"MOE_SIM_CACHE": str(tmp_path / "cache")}

    def run(*words):
        done = subprocess.run([bin_folder / words[0], *words[1:]], cwd=tmp_path, env=variables, capture_output=True,
                              text=True, timeout=600)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", build_package(package))
    assert "last_score  my_package.last_score:LastScore" in run("moe-sim", "policies")
    assert "eviction=last_score" in run("moe-sim", "run", "policy=lru", "policy/eviction=last_score", *SMALL)
    assert "two runs agree" in run("moe-sim", "check-policy", "my_package.last_score:LastScore", *SMALL[:1])
    run("python", "-m", "pip", "uninstall", "-q", "-y", "my-package")
