"""The three sentences: numbers of invented comparisons, and who counts as a contender."""

import json

import numpy as np
import pandas as pd
import pytest

from sim.figures.measures import add_measures
from sim.figures.run_settings import add_settings
from sim.report.answer import answer
from sim.report.comparison import Comparison, compare_all, is_bound
from sim.report.content import _warnings
from sim.report.rows import BEST, BOUND, EQUAL, rows
from sim.results.table import collect
from tests.support.tables import run, study_of

NOBODY = study_of(run()).head(0)


def pair(series: str, ratio: float, low: float, high: float, p: float) -> dict:
    return {"series": series, "ratio": ratio, "ratio_low": low, "ratio_high": high, "p_holm": p,
            "distinguishable": p < 0.05}  # fmt: skip


def compared(*pairs: dict, **best) -> Comparison:
    runs = study_of(run("importance", 20.0, **best), *(run(one["series"], 20 * one["ratio"]) for one in pairs))
    table = pd.DataFrame(pairs or [], columns=[*pair("", 1, 1, 1, 1), "p"])
    return Comparison("tpot_s.mean", runs, NOBODY, table)


def test_the_best_its_lead_and_its_price():
    one = compared(pair("lru", 2.0, 1.6, 2.5, 0.001), **{"decode.lost_gate_mass": 0.163})
    first, _, third = answer([one])
    assert first == (
        "importance has the lowest time per output token: 20.00 ms [18.00, 22.00], 50 tokens/s (in brackets: 95 % "
        "intervals). This is where 25 % of the experts fit in GPU memory (s1, workload demo, one request at a time). "
        "It takes 50.0 % [37.5, 60.0] less time than lru, the only other policy. The price: 16.3 % of the gate mass of "
        "decode steps is not executed as routed, a proxy for lost quality."
    )
    assert third.startswith("Its lead over the other policy is more than chance")
    layered, *_ = answer([compared(layers=6, model_layers=27)])
    assert "20.00 ms [18.00, 22.00] for 6 of 27 layers, 50 tokens/s" in layered


def test_who_cannot_be_told_from_the_best_is_named():
    one = compared(pair("a", 1.01, 0.99, 1.03, 0.4), pair("b", 2.0, 1.9, 2.1, 0.001))
    assert answer([one])[2].startswith(
        "Its lead over a may be chance; over the rest of the 2 other policies it is not (95 %"
    )
    one = compared(pair("a", 1.01, 0.99, 1.03, 0.4))
    assert "so the order of all of them may be" in answer([one])[2]
    one = compared(pair("a", 1.01, np.nan, np.nan, np.nan))
    assert answer([one])[2].startswith("One batch of requests was replayed")
    assert answer([compared()])[2].startswith("With one policy there is nothing to tell apart")


def test_an_interval_that_leaves_out_0_alone_and_not_corrected_is_one_story():
    one = compared(pair("a", 1.2, 1.01, 1.4, 0.09) | {"p": 0.03}, pair("b", 2.0, 1.9, 2.1, 0.001) | {"p": 0.0005})
    assert answer([one])[2].endswith(
        "An interval is of one pair alone: that of the lead over a leaves out 0 (p 0.03), corrected for all pairs it "
        "does not (p 0.09)."
    )
    sure = compared(pair("a", 1.2, 1.01, 1.4, 0.03) | {"p": 0.03})
    assert "one pair alone" not in answer([sure])[2]


def test_what_limits_it_comes_from_what_if_or_from_the_parts(tmp_path):
    parts = {"time_s_per_token.link": 0.03, "time_s_per_token.host": 0.01}
    said = answer([compared(**parts)])[1]
    assert said.startswith("The largest part of its time per token is waiting for the link, 75.0 %")
    said = {"baseline": {"tpot_s": 0.04}, "scenarios": [], "binding": "what binds is X", "bound": "link-bound"}
    (tmp_path / "what_if.json").write_text(json.dumps(said))
    assert answer([compared(folder=str(tmp_path))])[1] == "For importance, what binds is X; link-bound."


def test_nothing_to_compare():
    assert answer([]) == ["No run has a time or a hit rate, so there is nothing to compare."]


@pytest.fixture(scope="module")
def table(sweep):
    return add_measures(add_settings(collect(sweep)))


def test_bounds_are_no_contenders(table):
    assert set(table[is_bound(table)]["policy"]) == {"belady", "all_resident"}
    found = compare_all(table)
    assert len(found) == 2  # one per capacity
    assert [set(one.bounds["policy"]) for one in found] == [
        {"belady", "all_resident"},
        {"belady"},
    ]
    for one in found:
        assert set(one.runs["policy"]) == {"lru", "importance"}
        assert one.best["tpot_s.mean"] == one.runs["tpot_s.mean"].min()
        assert len(one.pairs) == 1 + len(one.bounds)
        assert list(one.rivals["series"]) == list(one.runs["series"][1:])


def test_every_run_is_a_row_with_its_mark(table):
    found = rows(table, compare_all(table))
    assert len(found) == 7
    marks = [row.mark for row in found]
    assert marks.count(BEST) == 2
    assert marks.count(BOUND) == 3
    assert set(marks) <= {BEST, BOUND, EQUAL, ""}
    best = next(row for row in found if row.mark == BEST)
    tpot = table.set_index("series")["tpot_s.mean"]
    assert any(best.cells[1].sort == pytest.approx(1e3 * value) for value in tpot)
    assert best.cells[1].interval.startswith("[")


def test_warnings_that_differ_in_a_number_are_one_with_its_range():
    said = ("fragile: 4.2% of layer steps", "fragile: 100.0% of layer steps", "only 4 slots below top_k=6", "no number")
    table = study_of(*(run(f"p{place}", warnings=(one,)) for place, one in enumerate(said)))
    assert _warnings(table) == [
        "fragile: 4.2 to 100.0% of layer steps (p0 at 25 %; p1 at 25 %)",
        "only 4 slots below top_k=6 (p2 at 25 %)",
        "no number (p3 at 25 %)",
    ]
