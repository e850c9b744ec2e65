"""The page on policies of one's own, followed to the letter in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main
from sim.assembly.build import make_policy
from sim.assembly.compose import compose_run
from sim.paths import ROOT

PAGE = (ROOT / "docs" / "own_policy.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_page_works_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rule, script = blocks("python")
    Path("last_score.py").write_text(rule)
    (policy,) = blocks("yaml")
    Path("mine.yaml").write_text(policy)
    commands = [line.split()[1:] for block in blocks("bash") for line in block.splitlines()]
    assert [words[0] for words in commands] == ["check-policy", "run", "run", "compare"]
    for words in commands:
        GlobalHydra.instance().clear()
        small = ["trace.requests=4", "engine=compiled"] if words[0] == "run" else []
        assert main([*words, *small]) == 0, capsys.readouterr().err
    assert len(list(Path("outputs/sweep/mine").glob("lru_*/metrics.json"))) == 4
    GlobalHydra.instance().clear()
    assert type(make_policy(compose_run("policy=mine.yaml").policy).eviction).__name__ == "LastScore"
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "ratio_low" in done.stdout, done.stderr
