"""Damaged and foreign result folders are refused in one sentence."""

import json

import pandas as pd
import pytest

from sim.__main__ import main
from sim.results.table import collect
from traces.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    assert main(["run", "policy=lru", "engine=compiled", "trace.requests=2", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert len(collect(tmp_path)) == 1
    return tmp_path


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "sentence"),
    [
        ("metrics.json", {"hit_rate": "much"}, "must be a finite number or null"),
        ("metrics.json", {"hit_rate": float("nan")}, "must be a finite number or null"),
        ("metrics.json", {"hit_rate": True}, "must be a finite number or null"),
        ("provenance.json", {"cache": 3}, "are broken"),
        ("provenance.json", {"policy": "\ud800"}, "is broken"),
        ("provenance.json", {"batch_size": "x"}, "are broken"),
        ("provenance.json", {"overrides": 7}, "are broken"),
        ("provenance.json", {"config": {"hardware": {"uncertainty": 3}}}, "are broken"),
    ],
)
def test_a_value_that_cannot_be(folder, file, values, sentence):
    changed(folder / "run" / file, **values)
    with pytest.raises(UserError, match=sentence):
        collect(folder)


def test_a_phase_that_does_not_exist_takes_no_memory(folder):
    path = folder / "run" / "blocks.parquet"
    table = pd.read_parquet(path)
    table["phase"] = 2**40
    table.to_parquet(path)
    with pytest.raises(UserError, match="phase must be"):
        collect(folder)


def test_texts_in_place_of_numbers(folder):
    path = folder / "run" / "requests.parquet"
    table = pd.read_parquet(path)
    table["group"] = "a"
    table.to_parquet(path)
    with pytest.raises(UserError, match="of numbers"):
        collect(folder)


def test_nesting_beyond_what_can_be_read(folder):
    (folder / "run" / "metrics.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is broken"):
        collect(folder)
