"""The command: files and sentences."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from sim.__main__ import main
from sim.figures.validation_table import read_validation
from sim.validation.findings import Findings, Point, error_summary, signed_error_percent
from sim.validation.published import published_names
from sim.validation.report import cell_text, points_table, write_findings

SHARED = Path("../shared/measurements")


def test_errors_by_hand() -> None:
    assert signed_error_percent(110.0, 100.0) == pytest.approx(10.0)
    assert signed_error_percent(50.0, 100.0) == pytest.approx(-50.0)
    assert error_summary([1.0, -3.0, 2.0]) == {
        "count": 3, "mean_absolute_error_percent": 2.0, "worst_error_percent": -3.0,
    }  # fmt: skip
    assert error_summary([])["mean_absolute_error_percent"] is None


def test_cells_by_hand() -> None:
    assert cell_text(None) == "-"
    assert cell_text(1.23456) == "1.235"
    assert cell_text(-1.23456, "error_percent") == "-1.23"
    assert cell_text(1.0, "error_percent") == "+1.00"
    assert cell_text(1.0, "mean_absolute_error_percent") == "1.00"


def test_the_files_of_findings(tmp_path: Path) -> None:
    rows = [{"name": "a", "measured": 2.0, "low": None}, {"name": "b|c", "measured": 1 / 3, "low": 0.25}]
    points = [Point("a", 1.0, 1.1, 0.9, 1.2), Point("a", 2.0, 2.0, use="calibration"), Point("b", 3.0, 2.5)]
    findings = Findings("made", "A title", "ms", {"x": {"count": 2}}, {"runs": rows, "none": []}, ["a note"], points)
    write_findings(tmp_path, findings, {"published": "made"})
    names = {path.name for path in tmp_path.iterdir()}
    stem = "predicted_against_measured"
    assert names == {"validation.json", "validation.csv", "report.md", "runs.csv", f"{stem}.pdf", f"{stem}.png"}
    times = read_validation(tmp_path)
    assert times["setting"].tolist() == ["a", "b"]  # what was fitted on is left out
    assert times["measured_s"].tolist() == [0.001, 0.003]
    assert times["predicted_high"].tolist()[0] == 0.0012 and math.isnan(times["predicted_high"].tolist()[1])
    content = json.loads((tmp_path / "validation.json").read_text())
    assert content["tables"]["runs"] == rows
    assert content["summary"] == {"x": {"count": 2}}
    with (tmp_path / "runs.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["low"] for row in read] == ["", "0.25"]
    assert math.isclose(float(read[1]["measured"]), 1 / 3)
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# A title\n")
    assert "| b/c | 0.3333 | 0.25 |" in report
    assert f"({stem}.png)" in report
    assert "- x: count = 2" in report


def test_of_rates_the_lower_end_is_the_longer_time(tmp_path: Path) -> None:
    findings = Findings("made", "A title", "tokens/s", {}, {}, ["a note"], [Point("a", 4.0, 5.0, 4.0, 10.0)])
    (row,) = points_table(findings)
    assert (row["measured_s"], row["predicted_s"]) == (0.25, 0.2)
    assert (row["predicted_low"], row["predicted_high"]) == (0.1, 0.25)


def test_published_sources_are_the_packages_of_their_folder() -> None:
    assert set(published_names()) == {
        "mixtral_offloading",
        "big_moe_on_edge",
        "measurements",
        "corpus",
        "aiconfigurator",
    }
    assert set(published_names()) < {path.stem for path in Path("conf/published").glob("*.yaml")}


@pytest.mark.parametrize("name", sorted({*published_names()} - {"corpus"}))
def test_missing_files_end_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", f"published={name}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: published.path is not set")
    assert error.count("\n") == 1
    assert "github.com" in error
    assert main(["validate", f"published={name}", f"published.path={tmp_path}"]) == 2
    assert re.search(r"published.path=\S+ holds no \S+: the files are those of", capsys.readouterr().err)
    assert not list(tmp_path.glob("outputs/validate/*"))


def test_a_folder_that_is_no_corpus_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "published=corpus", f"published.path={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"^error: \S+machines.csv is missing: a corpus has corpus.csv and machines.csv\n$", error)
    assert not list(tmp_path.glob("outputs/validate/*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["published=mixtral_offloading", "published.seeds=0"], "published.seeds=0: must be between 1 and 100000"),
        (["published=mixtral_offloading", "published.seeds=many"], "published.seeds=many: must be a whole number"),
        (["published=mixtral_offloading", "+published.sedes=3"], "did you mean seeds?"),
        (["published=mixtral"], "published"),
    ],
)
def test_bad_knobs_end_in_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error


def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not (SHARED / "offload_latency_table.csv").is_file():
        pytest.skip("the published figures are not at ../shared/measurements")
    path = SHARED.resolve()
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "published=measurements", f"published.path={path}"]) == 0
    printed = capsys.readouterr().out
    (said,) = [line for line in printed.splitlines() if line.startswith("results in ")]
    folder = Path(said.removeprefix("results in "))
    assert {"validation.json", "report.md", "terms.csv"} <= {file.name for file in folder.iterdir()}
    assert "kernel of an MoE block" in printed


TINY = ("real.hidden_size=32", "real.expert_ffn=48", "real.attention_bytes=4096", "real.link_bytes_per_s=null")


@pytest.mark.slow
def test_real_runs_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiny experts: decisions must be exact whatever the machine does; times may mean nothing and then say so."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "repeats=1", "tokens=3", "draws=1", "gate=1", "budget_s=600"]
    assert main(["validate", *words, "out=found"]) == 0
    printed = capsys.readouterr().out
    assert "results in found" in printed.splitlines()
    content = json.loads((tmp_path / "found" / "validation.json").read_text())
    decisions = content["summary"]["decisions"]
    assert decisions["demand_only_identical"] == decisions["demand_only_settings"] == 9
    assert decisions["prefetch_settings"] == 7
    assert content["summary"]["noise gate"]["runs"] >= 18  # a run that waited for a core is tried again
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"plan.json", "runs.json", "tokens.parquet", "report.md", "decisions.csv", "errors.png"} <= names
    assert "raw" not in names
    given = ["hardware=rtx4090", "runtime=eager_hf"]
    assert main(["validate", "measure=false", "out=found", "draws=0", "gate=0.0001", *given]) == 0
    again = json.loads((tmp_path / "found" / "validation.json").read_text())
    assert again["summary"]["decisions"]["demand_only_identical"] == 9
    assert any("rtx4090 with eager_hf" in note for note in again["notes"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["measure=false"], "measure=false: give the folder of a finished validation, out=FOLDER"),
        (["measure=false", "out=nothing"], "nothing holds no plan.json: it is no validation"),
        (["repeats=0"], "repeats=0: must be between 1 and 100000"),
        (["gate=0"], "gate=0: must be above 0 and at most 1"),
        (["budget_s=0"], "budget_s=0: must be above 0"),
        (["budget_s=1e-9", *TINY], "no run finished in that time"),
        (["real.hidden_size=0"], "hidden_size=0: must be at least 1"),
        (["hardware=mine", "runtime=eager_hf"], "hardware=mine is not known"),
        (["hardware=rtx4090", "runtime=mine"], "runtime=mine is not known"),
        (["hardware=rtx4090"], "give both files of one calibration, or neither"),
        (["+repeat=3"], "did you mean repeats?"),
        (["other_trace=nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_bad_knobs_of_real_runs_end_in_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert sentence in error
