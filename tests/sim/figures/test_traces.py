"""Figures of a trace: statistics worked out by hand, and what a trace without them says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim.commands import plot
from sim.figures.drawing import MissingData
from sim.figures.drawings.gate import reuse, reuse_by_rank, reuse_counts, score_by_rank, scores_by_rank
from sim.figures.drawings.routing import expert_shares, locality, locality_by_layer, routing
from sim.figures.registry import FIGURES, TRACE
from tests.support.random_traces import random_trace, recorded_trace, routed
from tests.support.tables import footnote_of, legend
from traces.format.files import write_trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_trace(tmp_path / "t.safetensors", replace(recorded_trace(width=6), content_hash=""))
    return tmp_path / "t.safetensors"


def written(tmp_path: Path, trace) -> Path:
    write_trace(tmp_path / "t.safetensors", replace(trace, content_hash="", prompt_len=trace.prompt_len))
    return tmp_path / "t.safetensors"


def test_reuse_by_hand():
    """One layer, top 2: 01 | 02 | 13 | 01 | 45, all decode; the first two rows have three rows after them."""
    ids = np.array([[[0, 1]], [[0, 2]], [[1, 3]], [[0, 1]], [[4, 5]]])
    reused, pairs = reuse_counts(routed(ids, 6, [0], [5]))
    assert pairs.tolist() == [[2, 2]]
    # Row 0: 0 returns at 1 step, 1 at 2 steps. Row 1: 0 returns at 2 steps, 2 never.
    assert reused[0].tolist() == [[1, 0], [2, 1], [2, 1]]


def test_reuse_does_not_cross_requests():
    ids = np.zeros((8, 1, 1), np.int64)
    reused, pairs = reuse_counts(routed(ids, 4, [0, 0], [4, 4]))
    assert pairs.tolist() == [[1], [1]]
    assert reused.tolist() == [[[1], [1], [1]], [[1], [1], [1]]]


def test_scores_fall_with_rank_and_the_line_marks_top_k(tmp_path):
    logits = np.tile(np.log([[[0.5, 0.3, 0.2]]]), (4, 1, 1)).astype(np.float32)
    ids = np.tile([[[0, 1]]], (4, 1, 1))
    table = scores_by_rank(written(tmp_path, routed(ids, 3, [0], [4], logits)))
    np.testing.assert_allclose(table["score"], [0.5, 0.3, 0.2], rtol=1e-6)
    figure = score_by_rank(table, 1)
    (panel,) = figure.axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("Rank of the expert by gate score", "Gate score (probability)")
    assert next(line for line in panel.lines if len(set(line.get_xdata())) == 1).get_xdata()[0] == 2.5
    assert footnote_of(figure).startswith("MEASURED: routing of test, 4 decode rows of 1 requests")


def test_a_line_of_reuse_per_window(path):
    table = reuse_by_rank(path)
    figure = reuse(table, 2)
    assert legend(figure) == [f"within the next {word}" for word in ("decode step", "2 decode steps", "3 decode steps")]
    by_window = table.groupby("window")["reuse"].mean()
    assert by_window.is_monotonic_increasing
    assert figure.axes[0].get_ylabel() == "Routed to again (%)"


def test_shares_of_a_layer_sum_to_one_and_fall_with_place(path):
    table = expert_shares(path)
    np.testing.assert_allclose(table.groupby("layer")["share"].sum(), 1)
    first = table[table["layer"] == 0].sort_values("place")["share"].to_numpy()
    assert (np.diff(first) <= 0).all()
    own, ordered, bar = routing(table, 2).axes
    assert own.images[0].get_array().shape == (table["layer"].nunique(), table["expert"].nunique())
    assert (own.get_xlabel(), own.get_ylabel()) == ("Expert", "MoE layer")
    assert ordered.get_xlabel() == "Experts by use, most used first"
    assert bar.get_ylabel() == "Use over even use"


def test_locality_ends_at_what_a_full_cache_hits(path):
    table = locality_by_layer(path)
    full = table[table["capacity"] == 1.0]
    assert (full["hits"] >= table.groupby("layer")["hits"].max().to_numpy()).all()
    hits, use = locality(table, 2).axes
    assert hits.get_ylabel() == "Hit rate of LRU (%)"
    assert use.get_xlabel() == "MoE layer"
    line = next(line for line in use.lines if line.get_label().startswith("uses"))
    np.testing.assert_allclose(line.get_ydata(), table.drop_duplicates("layer")["top_quarter"])


def test_traces_that_lack_scores_or_order_say_so(tmp_path):
    bare = replace(random_trace(0), router_logits=None, lookahead_before=None, lookahead_after=None, ranked=False,
                   score_function=None)  # fmt: skip
    path = written(tmp_path, bare)
    with pytest.raises(MissingData, match=r"has no router_logits.*python -m sim record"):
        scores_by_rank(path)
    with pytest.raises(MissingData, match="in no order of merit"):
        reuse_by_rank(path)


def test_plot_takes_a_trace(path, tmp_path, capsys):
    assert plot.main([str(path), f"out={tmp_path / 'out'}"]) == 0
    names = [name for name, drawing in FIGURES.items() if drawing.source == TRACE]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("pdf", "png", "svg")
    )
    with pytest.raises(
        MissingData, match=r"figure=capacity is drawn from runs, and .* holds none: name the output folder"
    ):
        plot.main([str(path), "figure=capacity"])
