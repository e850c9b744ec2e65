"""`export`: tables of traces; of runs files whose placement, read back, hits as often as the run did."""

import json
import re

import pytest
from hydra.core.global_hydra import GlobalHydra

from sim.__main__ import main
from sim.results.placements import WRITERS, read_back, read_placement
from traces.embedded import trace_path
from traces.errors import UserError
from traces.format.files import read_trace


def said(capsys, *words):
    status = main(["export", *map(str, words)])
    return status, capsys.readouterr()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of a run and its hit rate, by policy."""
    folder = tmp_path_factory.mktemp("runs")
    words = ("trace.requests=8", "batch_size=2")
    return {policy: run_of(folder, policy, *words) for policy in ("ktransformers", "lru")}


def run_of(tmp_path, policy, *words):
    GlobalHydra.instance().clear()
    folder = tmp_path / policy
    assert main(["run", f"policy={policy}", "engine=untimed", f"out={folder}", "quiet=true", *words]) == 0
    return folder, json.loads((folder / "metrics.json").read_text())["hit_rate"]


def test_a_table_of_the_embedded_trace_imports_with_the_same_ids(tmp_path, capsys):
    status, out = said(capsys, "demo", tmp_path / "demo.parquet", "--layout", "wide")
    assert status == 0 and "Left out, since a table has no room for it: router_logits" in out.out
    assert main(["import", "table", str(tmp_path / "demo.parquet"), str(tmp_path / "again.safetensors")]) == 0
    again, demo = read_trace(tmp_path / "again.safetensors"), read_trace(trace_path("demo"))
    assert (again.topk_ids == demo.topk_ids).all() and (again.topk_weights == demo.topk_weights).all()


@pytest.mark.parametrize("kind", ["frequency", "hot_set", "ktransformers"])
@pytest.mark.parametrize("policy", ["ktransformers", "lru"])
def test_what_a_run_keeps_hits_as_often_when_it_is_read_back(runs, tmp_path, capsys, kind, policy):
    folder, rate = runs[policy]
    status, out = said(capsys, folder, tmp_path / "file", "--as", kind, "--first-layer", 1)
    assert status == 0
    found = float(re.search(rf"SIMULATED hit rate of {kind}: ([\d.]+)", out.out)[1])
    if policy == "ktransformers":  # a static rule's placement is its own
        assert found == pytest.approx(rate, abs=1e-4) and "as the run kept them" in out.out
    else:
        assert "the most demanded that fit" in out.out and 0 < found < 1
    placement = read_placement(folder, 1)
    assert placement.numbers == tuple(range(1, 7))
    assert placement.resident.sum() == 6 * 16  # a quarter of 64 in six layers
    mask = read_back(tmp_path / "file", kind, placement.numbers, 64)[kind]
    assert (mask == placement.resident).all()


def test_whole_layers_of_llama_cpp_hit_as_often_as_its_policy(tmp_path, capsys):
    folder, rate = run_of(tmp_path, "llama_cpp", "trace.requests=4", "cache.slots_per_layer=32")
    status, out = said(capsys, folder, tmp_path / "args", "--as", "llama_cpp", "--first-layer", 1)
    assert status == 0
    text = (tmp_path / "args").read_text()
    assert "--n-cpu-moe 4" in text  # of layers 1 to 6, 4 to 6 stay
    assert re.search(r'-ot "blk\\\.\(\d\|\d\|\d\)\\\.ffn_\.\*_exps\\\.=CPU"', text)
    rates = dict(re.findall(r"SIMULATED hit rate of (\S+): ([\d.]+)", out.out))
    assert float(rates["--n-cpu-moe"]) == pytest.approx(rate, abs=1e-4)
    assert float(rates["-ot"]) >= float(rates["--n-cpu-moe"]) - 1e-4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["demo", "a.csv", "--as", "hot_set"], "--as and --first-layer are of runs"),
        (["RUN", "a.csv"], "is the folder of a run: say --as frequency"),
        (["RUN", "a.csv", "--as", "hot_set"], "provenance.json"),
        (["demo", "a.txt"], "must end in .csv"),
        (["nowhere.safetensors", "a.csv"], "does not exist"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(tmp_path, capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").mkdir()
    status, out = said(capsys, *words)
    assert status == 2 and sentence in out.err and out.err.startswith("error: ")
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"hot_experts": {"9": [1]}, "gpu_experts": {"9": [1]}}', "a,b\n1,2\n"]
)
def test_a_file_of_another_kind_is_refused(tmp_path, kind, text):
    (tmp_path / "a").write_text(text)
    with pytest.raises(UserError, match=f"is no {kind} file"):
        read_back(tmp_path / "a", kind, (0, 1), 4)
