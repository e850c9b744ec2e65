"""The quality studies' analyses as functions of sums by document, by hand."""

import numpy as np
import pytest

from scripts.studies.quality import alpha, clock, expert_budget, identity, notions, open_loop, pareto
from scripts.studies.quality.bench import COLUMNS, Case, Outcome, sums_by
from scripts.studies.quality.rules import RULES, lru_with
from sim.paths import ROOT
from traces.errors import UserError


def outcome(label="x", knob=0.0, tpot_ms=(2.0, 2.0), kl=(0.1, 0.1)):
    """Two documents of ten predictions and ten steps each."""
    sums = np.zeros((2, len(COLUMNS)))
    columns = {"predictions": (10, 10), "steps": (10, 10), "latency_ns": np.multiply(tpot_ms, 1e7)}
    columns |= {"kl": np.multiply(kl, 10), "nll": np.multiply(kl, 10)}
    columns |= dict.fromkeys(("demanded", "executed", "routed_ranks"), (1, 1))
    for name, values in columns.items():
        sums[:, COLUMNS.index(name)] = values
    return Outcome(Case(label, knob, lru_with()), sums)


def test_a_statistic_is_the_ratio_of_sums_over_documents():
    row = outcome(kl=(0.1, 0.3)).row(["kl", "perplexity_change", "tpot_s"])
    assert row["kl"] == pytest.approx(0.2) and row["perplexity_change"] == pytest.approx(np.expm1(0.2))
    assert (row["kl.low"] + row["kl.high"]) / 2 == pytest.approx(0.2) and row["kl.low"] < 0.1 < 0.3 < row["kl.high"]
    assert row["tpot_s"] == row["tpot_s.low"] == pytest.approx(2e-3)


def test_differences_are_paired():
    over = outcome(kl=(0.2, 0.4)).over(outcome(kl=(0.1, 0.3)), ["kl"], "over")
    assert list(over.values()) == pytest.approx([0.1, 0.1, 0.1])


def test_rows_are_added_up_by_document():
    assert sums_by(["b", "a", "b"], np.array([[1.0], [2.0], [4.0]])).tolist() == [[2.0], [5.0]]


def test_the_front_holds_what_nothing_beats_in_both():
    slow, fast, beaten = (outcome(tpot_ms=(t, t), kl=(k, k)) for t, k in ((3, 0.1), (1, 0.3), (3, 0.2)))
    rows = pareto.table([slow, fast, beaten])
    assert [row["on_front.kl"] for row in rows] == [True, True, False]


def test_equal_quality_is_read_off_a_straight_line():
    """At KL 0.2, halfway between 3 and 1 ms, a rule takes 2 ms where the other takes 4: -50 %."""
    line = [outcome(tpot_ms=(t, t), kl=(k, k)) for t, k in ((3, 0.1), (1, 0.3))]
    other = [outcome(), outcome("other", 7, tpot_ms=(4, 4), kl=(0.2, 0.2)), outcome("far", 8, kl=(0.5, 0.5))]
    rows = [row for row in notions.equal_quality({"a": line, "b": other}, "a", "b", 0) if row["quality"] == "kl"]
    assert [row["knob"] for row in rows] == [7]
    assert [rows[0][name] for name in ("change", "low", "high")] == pytest.approx([-0.5] * 3)
    assert notions.verdict(rows).startswith("dominates: -50.0")


def test_harmless_ends_at_the_first_alpha_beyond_the_margin():
    highs = {0.0: 0.0, 0.1: 0.009, 0.2: 0.02, 0.3: 0.001}
    rows = [{"stand_in": "replaced", "alpha": a, "perplexity_change.high": high} for a, high in highs.items()]
    assert alpha.largest_harmless([*rows, {"stand_in": "dropped"}]) == 0.1


def test_closed_minus_open_by_position():
    sums = np.ones((2, 2, 2, 8))  # [loops, windows, bins, columns]
    sums[1, :, 1, 0] = 0.5
    rows = open_loop.table("p", sums, ["a", "b"], 2 * open_loop.BIN)
    assert [row["positions"] for row in rows] == ["0-31", "32-63", "all"]
    assert [row["hit_rate.difference"] for row in rows] == pytest.approx([0.0, -0.5, -0.25])


def test_every_rule_takes_every_value_of_its_knob():
    for rule in RULES.values():
        for value in rule.values:
            assert rule.knob == "" or getattr(rule.of(value), rule.knob) == value


@pytest.mark.slow
@pytest.mark.parametrize(("study", "name"), [(pareto, "quality_pareto"), (open_loop, "quality_open_loop")])
def test_a_figure_is_drawn_from_the_table_that_is_written(study, name, tmp_path):
    study.main(["--redraw", "--figures", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}{ending}" for ending in (".pdf", ".png", ".svg")}


def test_without_a_table_nothing_is_drawn(tmp_path):
    with pytest.raises(UserError, match=r"--redraw: .*quality_alpha\.json lacks the rows of this study"):
        alpha.main(["--redraw", "--results", str(tmp_path), "--figures", str(tmp_path)])
    assert not [*tmp_path.iterdir()]


def test_what_a_figure_says_follows_from_its_rows():
    front = [("max_rank", 1), ("importance_plus", 1), ("importance_plus", 1), ("skip", 0), ("lru", 1)]
    rows = [{"rule": rule, "on_front.kl": bool(on)} for rule, on in front]
    assert pareto.unbeaten(rows).startswith(
        "Of 3 settings that none beats in both time and KL divergence, 2 are of imp"
    )
    assert pareto.unbeaten([]) == ""
    found = {f"{name}.difference": value for name, value in
             {"hit_rate": -0.004, "substitution_rate": 0.001, "tpot_s": 2e-4}.items()}  # fmt: skip
    assert "at most 0.4 points of hit rate" in open_loop.largest([{"positions": "all"} | found])


def test_the_page_of_budgets_says_what_each_costs():
    row = {"windows": 24, "tokens_per_window": 256, "union": 12.04, "tpot_s": 0.0149}
    row |= {"policy.drop_rate": 0.247, "policy.kl": 0.0181, "policy.perplexity_ratio": 1.0225}
    row |= {"policy.perplexity_ratio.low": 1.0132, "policy.perplexity_ratio.high": 1.0318}
    lines = [*expert_budget.page([(None, row), (12, row)], 3)]
    assert lines[-1] == "| 12 | 12.0 | 24.7 % | 0.0181 | +2.25 % [1.32, 3.18] | 14.9 ms |"
    assert lines[-2].startswith("| all |") and "4 consecutive positions" in " ".join(lines)
    committed = (ROOT / "docs" / "results" / "expert_budget.md").read_text().splitlines()
    assert committed[: len(lines) - 2] == lines[:-2] and len(committed) == len(lines) - 2 + len(expert_budget.BUDGETS)


def test_a_recipe_passes_where_every_contrast_lies_over_the_margin():
    """KL of the nearest .1: .12 lies 20 % over it, .105 5 %; one contrast that does not matter is enough."""
    near = outcome(kl=(0.1, 0.1))
    far, close = (identity.excess(outcome(kl=(kl, kl)), near) for kl in (0.12, 0.105))
    assert far["kl_excess"] == pytest.approx(0.2) and close["kl_excess.high"] == pytest.approx(0.05)
    rows = [{"recipe": "r", "seed": 0, "matters": "yes"}, {"recipe": "r", "seed": 0}, {"recipe": "s", "seed": 0}]
    assert identity.passes(rows, "r", 0)
    assert not identity.passes([*rows, {"recipe": "r", "seed": 0, "matters": "undecided"}], "r", 0)


def test_the_clock_study_compares_two_policies_on_the_same_documents():
    """KL .09 beside .10 in every document: -10 %, on the edge, so not within the margin; lines by hand."""
    outcomes = {"importance": outcome(kl=(0.1, 0.2)), "importance_plus": outcome(kl=(0.09, 0.18))}
    lines = {name: np.array([[3.0, 2, 2, 4], [3, 2, 2, 4]]) for name in outcomes}
    lines["importance_plus"][:, 1:3] += 1
    row = clock.over(outcomes, lines)
    assert row["over_importance.kl"] == row["over_importance.kl.high"] == pytest.approx(-0.1)
    assert row["over_importance.tpot"] == 0 and row["over_importance.tpot.within"] == "yes"
    assert row["over_importance.perplexity"] == pytest.approx(np.expm1(-0.015))
    assert row["over_importance.lines_exact"] == pytest.approx(0.25) == row["over_importance.lines_same.low"]
    assert row["over_importance.lines_same.within"] == "no"
    alone = clock.line_row(lines["importance"])
    assert alone["lines"] == 8 and alone["lines_exact_change"] == -0.25 and alone["lines_same"] == 0.5


def test_the_edition_is_read_off_the_policy():
    assert clock.edition("importance_plus_1") == "first" and clock.edition("importance") == ""
