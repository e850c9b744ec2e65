"""The predictors that come with the package: what they are, and what a run does with them."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.__main__ import main
from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.commands.train_predictor import compare
from sim.paths import ROOT
from sim.predictors import checkpoint as checkpoints
from sim.predictors.checkpoint import DATA, EMBEDDED, read_checkpoint
from sim.predictors.forecast import forecaster_of
from sim.predictors.settings import KINDS
from sim.predictors.split import fingerprint
from sim.sweep import key as sweep_key
from tests.support.random_traces import random_trace
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace, write_trace

POLICIES = ("moe_beyond", "promoe")
FIT_REQUESTS = 6


def run_into(folder, *words):
    assert main(["run", *words, f"hydra.run.dir={folder}"]) == 0
    return folder


def test_the_package_holds_one_of_every_kind_and_they_are_small():
    assert {path.stem for path in DATA.iterdir()} == set(KINDS)
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 640_000


@pytest.mark.parametrize("kind", KINDS)
def test_its_file_says_where_a_predictor_comes_from(kind):
    trace, training = read_trace(embedded_trace_path()), read_checkpoint(DATA / f"{kind}.safetensors").training
    learned = range(trace.num_requests - FIT_REQUESTS, trace.num_requests)
    assert training["trace_hash"] == trace.content_hash
    assert sorted(training["train"] + training["validation"]) == list(learned)
    assert training["fingerprints"] == [fingerprint(trace, request) for request in learned]
    assert training["settings"]["seed"] == 0 and training["settings"]["float16"]
    assert {"python", "numpy", "torch"} <= set(training["versions"])
    assert training["validation_metrics"]["trained"]["decode"]["recall_at_k"] > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_right_as_often_as_its_file_says(kind):
    """The weights are rounded before they are measured, so what is stored is what was measured."""
    trace, checkpoint = read_trace(embedded_trace_path()), read_checkpoint(DATA / f"{kind}.safetensors")
    assert {array.dtype for array in checkpoint.weights.values()} == {np.dtype(np.float16)}
    forecaster, training = forecaster_of(checkpoint, trace, 1), checkpoint.training
    learned, test = tuple(training["train"] + training["validation"]), tuple(training["test"])
    measured = compare(forecaster.network, forecaster.source, learned, test)
    for name, stated in training["metrics"].items():
        assert measured[name]["decode"]["recall_at_k"] == pytest.approx(stated["decode"]["recall_at_k"], abs=1e-3)
    trained, *untrained = (training["metrics"][name]["decode"] for name in ("trained", "popularity", "previous token"))
    assert trained["recall_at_k"] > 3 * max(metrics["recall_at_k"] for metrics in untrained)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_command_runs_from_anywhere_and_says_what_was_learned_from(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_into(tmp_path / "run", f"policy={policy}", "engine=compiled")
    printed = capsys.readouterr().out
    assert "learned from the last 6 requests, which are not replayed" in printed
    assert "note: predictor embedded" in printed and "trained on 5 other requests of this trace" in printed
    assert "ESTIMATED: predictions take no time" in printed
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["predictor"]["checkpoint"] == EMBEDDED and len(provenance["predictor"]["fingerprints"]) == 6
    assert len(pd.read_parquet(tmp_path / "run" / "requests.parquet")) == 18


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_run_writes_the_same_bytes_on_both_engines(policy, tmp_path):
    words = (f"policy={policy}", "trace.requests=2")
    folders = [
        run_into(tmp_path / name, *words, f"engine={name[:-1]}") for name in ("compiled1", "compiled2", "simpy1")
    ]
    first, second, simpy = ((folder / "metrics.json").read_bytes() for folder in folders)
    assert first == second == simpy


@pytest.mark.parametrize("word", ["trace.requests=19", "trace.fit_requests=0", "trace.fit_requests=5"])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_it_has_seen_is_not_replayed(policy, word):
    with pytest.raises(
        UserError, match=r"embedded: the predictor learned from .* hold them out with trace.fit_requests=6"
    ):
        build(compose_run(f"policy={policy}", word))


def test_of_some_labels_those_it_has_seen_are_held_out():
    replay = build(compose_run("policy=promoe", "trace.labels=[code]"))
    assert replay.trace.num_requests == 9
    assert any("learned from the last 3 requests" in note for note in replay.notes.warnings)


@pytest.mark.parametrize("policy", POLICIES)
def test_another_trace_wants_a_predictor_of_its_own(policy, tmp_path):
    path = tmp_path / "small.safetensors"
    write_trace(path, random_trace(0, num_layers=2, num_experts=8, top_k=2))
    with pytest.raises(UserError, match=r"embedded: it predicts demo .* train one with `python -m sim train-p"):
        build(compose_run(f"policy={policy}", f"trace.path='{path}'"))


@pytest.mark.slow
def test_a_sweep_runs_them_beside_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["policy=lru,moe_beyond,promoe", "trace.requests=2", "engine=compiled", "sweep.name=s"]
    assert main(["run", "-m", *words]) == 0
    runs = [path.parent.name.rpartition("_")[0] for path in Path("outputs/sweep/s").glob("*/metrics.json")]
    assert sorted(runs) == ["lru", *POLICIES]


def test_other_weights_are_another_run(tmp_path, monkeypatch):
    config = {"policy": {"prediction": {"checkpoint": EMBEDDED}}}
    before = sweep_key.run_key(config, "")
    (tmp_path / "moe_beyond.safetensors").write_bytes(b"other")
    monkeypatch.setattr(sweep_key, "DATA", tmp_path)
    sweep_key._embedded.cache_clear()
    try:
        assert sweep_key.run_key(config, "") != before
    finally:
        sweep_key._embedded.cache_clear()


def test_a_damaged_one_is_refused(tmp_path, monkeypatch):
    damaged = bytearray((DATA / "promoe_mlp.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "promoe_mlp.safetensors").write_bytes(damaged)
    monkeypatch.setattr(checkpoints, "DATA", tmp_path)
    with pytest.raises(UserError, match="it was changed after it was written"):
        build(compose_run("policy=promoe", "trace.requests=2"))


@pytest.mark.slow
def test_only_such_a_policy_loads_torch(tmp_path):
    code = "import sys; from sim.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for policy, loaded in (("lru", "False"), ("promoe", "True")):
        words = ["run", f"policy={policy}", "trace.requests=1", "engine=untimed", f"hydra.run.dir={tmp_path / policy}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == loaded


def test_a_wheel_holds_them():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["sim"]
    assert set(DATA.iterdir()) <= {path for pattern in settings for path in (ROOT / "sim").glob(pattern)}


def test_quality_refuses_it_as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from sim.commands import quality

    with pytest.raises(UserError, match="reads a trained predictor, which is evaluated over recorded traces only"):
        quality.main(["policy=moe_beyond"])
