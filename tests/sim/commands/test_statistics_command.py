"""`python -m sim compare` and `python -m sim gather`: what they print, write and refuse."""

import pandas as pd
import pytest

from sim.commands import compare, gather
from sim.formatting import form_of
from tests.sim.statistics.test_statistics_of_runs import sweep
from traces.errors import UserError


def test_compare_marks_what_is_not_distinguishable(tmp_path, capsys):
    sweep(tmp_path / "sweep")
    assert compare.main([str(tmp_path / "sweep"), "metric=hit_rate", f"out={tmp_path / 'pairs.csv'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("hit_rate: hit rate, all steps, 12 blocks of requests, SIMULATED")
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert printed.count("not distinguishable") == (~pairs["distinguishable"]).sum() and len(pairs) == 6
    assert printed.index("capacity 0.25") < printed.index("capacity 0.5")
    row = pairs[(pairs["series"] == "belady") & (pairs["against"] == "lru") & (pairs["asked_capacity"] == 0.25)].iloc[0]
    line = next(line for line in printed.splitlines() if line.split()[:2] == ["belady", "lru"])
    gap = [f"{100 * row[f'difference{end}']:+.1f}" for end in ("", "_low", "_high")]
    less = [f"{100 * (row[f'ratio{end}'] - 1):+.1f}" for end in ("", "_low", "_high")]
    assert f"{100 * row['value']:.1f}  {100 * row['against_value']:.1f}" in line
    assert f"{gap[0]} [{gap[1]}, {gap[2]}]" in line and f"{less[0]} % [{less[1]}, {less[2]}]" in line


def test_compare_with_one_baseline_as_parquet(tmp_path, capsys):
    sweep(tmp_path / "sweep")
    assert compare.main([str(tmp_path / "sweep"), "baseline=lru", f"out={tmp_path / 'pairs.parquet'}"]) == 0
    assert set(pd.read_parquet(tmp_path / "pairs.parquet")["against"]) == {"lru"}
    printed = capsys.readouterr().out
    assert "tpot_s.mean: TPOT over requests" in printed and "A ms" in printed
    assert "batch size 1, for 6 of 27 layers" in printed


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        (compare, ["a", "b"], "compare takes one folder of results, got 2"),
        (compare, ["a", "figure=x"], "compare: figure=x is not known"),
        (compare, ["/no/such"], "is not a folder"),
        (gather, [], "gather takes one folder of results, got 0"),
        (gather, ["/no/such"], "/no/such is not a folder"),
    ],
)
def test_wrong_words_are_refused(command, words, sentence):
    with pytest.raises(UserError, match=sentence):
        command.main(words)


def test_one_policy_alone_is_not_compared(tmp_path):
    folder = sweep(tmp_path / "sweep")
    for run in list(folder.iterdir())[1:]:
        (run / "metrics.json").unlink()
    with pytest.raises(UserError, match="nothing can be compared"):
        compare.main([str(folder)])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no results"):
        gather.main([str(empty)])


def test_gather_prints_where(tmp_path, capsys):
    folder = sweep(tmp_path / "sweep")
    assert gather.main([str(folder)]) == 0
    assert f"6 runs in {folder / 'results.parquet'}" in capsys.readouterr().out


def test_an_interval_that_ends_beside_0_has_a_digit_more():
    assert form_of([0.003, -0.0002, 0.005]) == "+.2f"
    assert form_of([0.003, 0.001, 0.005]) == form_of([0.0, 0.0, 0.0]) == "+.1f"
