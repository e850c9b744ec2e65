"""Published times beside simulated ones: each predicted row keeps its tolerance, the table is that of the code."""

import csv

import pytest

from scripts.studies.known_answers import RESULTS, Answer, answers, as_markdown, compare, decode_means, main, shown
from traces.errors import UserError

ROWS = {answer.name: answer for answer in answers()}
PREDICTED = [name for name, answer in ROWS.items() if answer.words]
NOT_PREDICTED = {"nemotron_readback", "apple_sync"}


@pytest.mark.parametrize("name", PREDICTED)
def test_a_published_value_is_met_and_stands_in_the_table(name: str) -> None:
    row = compare(ROWS[name])
    assert row.verdict.startswith("within"), f"{name}: {shown(row)} of {row.published} {row.unit}"
    with (RESULTS / "known_answers.csv").open(newline="") as file:
        written = {line["name"]: line for line in csv.DictReader(file)}
    assert float(written[name]["simulated"]) == pytest.approx(row.simulated, abs=0.051)
    assert written[name]["verdict"] == row.verdict


def test_what_nothing_predicts_is_said_to_be_so() -> None:
    assert set(ROWS) - set(PREDICTED) == NOT_PREDICTED
    for name in NOT_PREDICTED:
        row = compare(ROWS[name])
        assert (row.verdict, row.simulated, row.error) == ("NOT PREDICTED", None, None)
        assert len(row.remark) > 100
    assert "NOT PREDICTED" in as_markdown([compare(ROWS[name]) for name in NOT_PREDICTED])


def test_a_miss_is_marked() -> None:
    known = ROWS["resident_4090"]
    row = compare(Answer("x", 1.0, "ms", 0.25, known.words, "s", "r"))
    assert row.verdict == "MISSES 25%" and row.error == pytest.approx(row.simulated - 1.0)


def test_the_rtx_2080_row_needs_no_override_beyond_groups() -> None:
    assert all("." not in word.partition("=")[0] for word in ROWS["ncmoe_2080"].words.split())


@pytest.mark.parametrize(
    ("hardware", "model", "with_copies_ms"),
    [
        ("s1_rtx3080ti", "deepseek_moe_16b", 93.0),  # 65 copies of 1.44 ms, at 60 % hits
        ("s2_rtx4060ti", "xverse_moe_a4_2b", 148.0),  # 67 copies of 2.2 ms, at 60 % hits
        ("s3_a6000", "qwen2_57b_a14b", 145.2 - 40 * 2.22),  # measured, less its copies
    ],
)
def test_a_model_without_copies_is_faster_than_one_with_them(hardware: str, model: str, with_copies_ms: float) -> None:
    words = f"policy=all_resident runtime=smoe_2026_07 trace=stand_in hardware={hardware} model={model}"
    assert 1.0 < decode_means(words)["tpot_ms"] < with_copies_ms


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        main(["--out", str(tmp_path / "file")])
