"""The demo model of the package: small enough, unchanged, and what `demo` with seed 0 gives."""

import hashlib
import json
import shutil

import pytest

from traces.demo import cache, shipped
from traces.demo.cache import demo_model
from traces.demo.recipe import named_recipe
from traces.demo.shipped import FOLDER, is_shipped, shipped_model
from traces.embedded import trace_path
from traces.errors import UserError
from traces.format.files import read_trace


def test_it_needs_no_training_and_is_the_hash_that_it_states():
    weights = FOLDER / "model.safetensors"
    summary = json.loads((FOLDER / "training.json").read_text())
    assert demo_model(named_recipe("demo")) == FOLDER and weights.stat().st_size <= 35_000_000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == summary["weights_sha256"]
    assert (summary["recipe"], summary["seed"]) == ("demo", 0) and "bfloat16" in summary["rounding"]


def test_it_was_trained_on_the_text_that_the_embedded_traces_model_was():
    summary = json.loads((FOLDER / "training.json").read_text())
    provenance = read_trace(trace_path("demo")).provenance
    assert (summary["corpus_sha256"], summary["python"], summary["torch"]) == (
        provenance["training_corpus_sha256"], provenance["python"], provenance["torch"],
    )  # fmt: skip


@pytest.mark.parametrize(("name", "seed", "train"), [("demo", 1, False), ("demo_plain", 0, False), ("demo", 0, True)])
def test_other_models_and_a_training_that_is_asked_for_are_trained(name, seed, train, monkeypatch, tmp_path):
    monkeypatch.setenv("MOE_SIM_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(cache, "load_corpus", lambda: None)
    monkeypatch.setattr(cache, "_train_into", lambda folder, recipe, corpus: asked.append((recipe.name, recipe.seed)))
    folder = demo_model(named_recipe(name, seed), train=train)
    assert asked == [(name, seed)] and folder != FOLDER
    assert is_shipped(named_recipe(name, seed)) == train


def test_changed_weights_are_refused(monkeypatch, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "shipped")
    with (tmp_path / "shipped" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    with pytest.raises(UserError, match="was changed after it was shipped"):
        shipped_model()
