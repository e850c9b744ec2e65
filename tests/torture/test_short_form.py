"""The short form of `python -m scripts.torture`: a little of everything, without a defect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.torture.__main__ import SHORT
from scripts.torture.readers import IMPORTERS
from traces.importers import importer_names

ROOT = Path(__file__).resolve().parents[2]


def torture(*words: str) -> str:
    argv = [sys.executable, "-m", "scripts.torture", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("part", SHORT)
def test_nothing_breaks(part):
    said = torture("--short", "--only", part)
    assert "0 defects" in said and "seed 0" in said


@pytest.mark.slow
def test_a_long_trace_takes_little_memory():
    assert "0 defects" in torture("--only", "load", "--gigabytes", "1")


def test_every_importer_has_an_input_that_is_corrupted():
    assert {reader.name.split()[1] for reader in IMPORTERS} == set(importer_names())
