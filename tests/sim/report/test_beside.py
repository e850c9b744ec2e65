"""A run of one's own beside the plain policy, and every run beside a baseline that was asked for."""

import re

import pytest

from sim.commands.report import main
from sim.figures.run_settings import add_settings
from sim.report.beside import beside, sentences
from sim.results.table import collect
from tests.sim.figures.test_plots import write_run
from tests.sim.statistics.test_statistics_of_runs import windows
from traces.errors import UserError


def table_of(folder):
    return add_settings(collect(folder))


def test_a_rule_of_ones_own_stands_beside_the_plain_policy_where_that_was_run(tmp_path):
    windows(tmp_path, 2, 8)
    assert beside(table_of(tmp_path), None) == ()
    write_run(tmp_path / "plain", "lru", 0.25)
    write_run(tmp_path / "other", "importance", 0.25)
    rows = beside(table_of(tmp_path), None)
    assert [row.series.rpartition("=")[2] for row in rows] == ["2", "8"] and {row.against for row in rows} == {"lru"}
    said = sentences(rows, True)
    assert len(said) == 2 and re.match(
        r"Beside lru at capacity 0\.25, .*, lru eviction=spared_lru\.py policy\.eviction\.window=2 changes the time "
        r"per token by [+-]0\.0 %.*chance \(p ",
        said[0],
    )


def test_a_baseline_puts_every_run_beside_it_or_is_refused(tmp_path, capsys):
    for policy in ("lru", "belady", "importance"):
        write_run(tmp_path / policy, policy, 0.25)
    rows = beside(table_of(tmp_path), "importance")
    assert [(row.series, row.against) for row in rows] == [("belady", "importance"), ("lru", "importance")]
    assert rows[1].change.startswith("+") and not rows[1].sure  # lru takes longer, of which so few requests say little
    with pytest.raises(UserError, match="baseline=fifo is neither a policy nor a series: known are belady, i"):
        main([str(tmp_path), "machines=0", "baseline=fifo"])
    assert not (tmp_path / "report.html").exists()
    assert main([str(tmp_path), "machines=0", "baseline=lru"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Beside lru</h2>" in page and "importance changes the time per token by -" in page
