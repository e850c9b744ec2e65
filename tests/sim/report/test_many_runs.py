"""Folders of very many runs: pairs and pages stay bounded, what is left out is said, and the best stays in."""

import numpy as np
import pandas as pd
import pytest

from sim.report import content as of_content
from sim.report.content import content, shortened
from sim.results import comparisons
from sim.results.comparisons import compared
from sim.results.table import collect
from tests.sim.report.folders import write_replay


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three policies at two capacities."""
    folder = tmp_path_factory.mktemp("runs")
    for slots in (3, 4):
        for policy in ("lru", "importance", "belady"):
            write_replay(folder / f"{policy}_{slots}", policy, slots=slots)
    return folder


def test_beyond_the_most_pairs_every_run_is_compared_with_the_best(folder, monkeypatch):
    table = collect(folder)
    assert len(compared(table, "tpot_s.mean").pairs) == 6
    monkeypatch.setattr(comparisons, "MOST_PAIRS", 5)
    found = compared(table, "tpot_s.mean")
    assert len(found.pairs) == 4
    for _, rows in table.groupby("conditions"):
        best = rows.loc[rows["tpot_s.mean"].idxmin(), "series"]
        against = found.pairs[found.pairs["conditions"] == rows["conditions"].iloc[0]]["against"]
        assert set(against) == {best}
    assert "6 pairs are more than 5: every run is compared with the best of its conditions only" in found.notes[0]
    hits = compared(table, "hit_rate").pairs
    assert (hits["value"] <= hits["against_value"]).all()
    assert len(compared(table, "tpot_s.mean", "lru").pairs) == 4  # a baseline of one's own stays


def test_a_table_without_intervals_is_the_same_table_else(folder):
    whole, quick = collect(folder), collect(folder, with_intervals=False)
    left_out = [name for name in whole if name not in quick]
    assert left_out and all(name.endswith((".low", ".high")) or name == "interval_method" for name in left_out)
    pd.testing.assert_frame_equal(whole[list(quick)], quick)
    pairs = [compared(table, "tpot_s.mean").pairs for table in (whole, quick)]
    pd.testing.assert_frame_equal(*pairs)


@pytest.mark.slow
def test_a_page_of_many_runs_shows_some_and_says_so(folder, monkeypatch):
    assert len(content(folder, machines=0).rows) == 6
    monkeypatch.setattr(of_content, "MOST_RUNS", 4)
    page = content(folder, machines=0)
    assert len(page.rows) == 4
    assert ("runs", "6") in page.was_run
    assert page.warnings[0].startswith("6 runs are more than 4: this page shows 4, of each set of conditions the best")


@pytest.mark.parametrize("count", [5, 101, 1000])
def test_the_best_of_all_conditions_and_the_worst_stay(count, monkeypatch):
    monkeypatch.setattr(of_content, "MOST_RUNS", 40)
    rng = np.random.default_rng(count)
    table = pd.DataFrame(
        {
            "tpot_s.mean": rng.permutation(count) + 1.0,
            "batch_size": 1,
            "series": [f"run {i}" for i in range(count)],
            "conditions": [f"at {i % 4}" for i in range(count)],
        }
    )
    shown, said = shortened(table)
    assert len(shown) == min(count, 40) and len(said) == (count > 40)
    assert shown.index.is_monotonic_increasing and shown.index.is_unique
    for name, rows in table.groupby("conditions"):
        times = shown[shown["conditions"] == name]["tpot_s.mean"]
        assert {rows["tpot_s.mean"].min(), rows["tpot_s.mean"].max()} <= set(times)
