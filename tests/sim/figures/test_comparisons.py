"""Bars of policies, eviction rules and ablation steps: which runs are compared, and what is drawn of them."""

import numpy as np
import pytest

from sim.figures.drawing import MissingData
from sim.figures.drawings.alpha import alpha
from sim.figures.drawings.chain import chain, chains
from sim.figures.drawings.evictions import evictions
from sim.figures.drawings.setups import cache_ratio_by_policy, tpot_by_policy
from sim.figures.one_capacity import one_capacity
from tests.support.tables import footnote_of, heights, legend, run, study_of, words

SMOE = {"prediction": "lookahead"}


def test_a_panel_per_set_up_and_batch_a_group_per_workload_a_bar_per_policy():
    table = study_of(
        *(run(name, tpot + batch, setup=setup, hardware=setup, batch_size=batch, workload=workload,
              **{"decode.cache_ratio": tpot / 100})
          for name, tpot in (("importance", 20.0), ("lru", 40.0)) for setup in ("s1", "s3") for batch in (1, 3)
          for workload in ("code", "prose"))
    )  # fmt: skip
    figure = tpot_by_policy(table, 2)
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "s1, batch\u00a01", "s3, batch\u00a01", "s1, batch\u00a03", "s3, batch\u00a03",
    ]  # fmt: skip
    assert legend(figure) == ["importance", "lru"]
    assert heights(figure.axes[3]) == [[23, 23], [43, 43]]
    assert [tick.get_text() for tick in figure.axes[3].get_xticklabels()] == ["code", "prose"]
    assert figure.axes[0].get_ylabel().replace("\n", " ") == "Time of a decode step (ms)"
    ratios = cache_ratio_by_policy(table, 1)
    assert len(ratios.axes) == 4
    assert heights(ratios.axes[0]) == [[40, 40], [20, 20]]  # the best first, as in the figure of times
    assert "Capacity: 25 % of the experts." in footnote_of(figure)


def test_intervals_are_drawn_where_the_table_has_them():
    table = study_of(run("a", 40.0, **{"tpot_s.low": 0.03, "tpot_s.high": 0.06}), run("b", 20.0))
    (panel,) = tpot_by_policy(table, 1).axes
    bars = next(bars for bars in panel.containers if bars.get_label() == "a")
    (segment, *_) = bars.errorbar.lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 1], [30, 60])


def test_of_several_capacities_the_one_most_contenders_share_nearest_to_a_quarter():
    table = study_of(*(run(name, capacity=share) for name in ("a", "b") for share in (0.1, 0.3, 0.9)),
                     run("all_resident", capacity=1.0), run("c", capacity=0.9))  # fmt: skip
    kept = one_capacity(table)
    assert sorted(zip(kept["contender"], kept["capacity"], strict=True)) == [
        ("a", 0.9), ("all_resident", 1.0), ("b", 0.9), ("c", 0.9),
    ]  # fmt: skip
    assert set(one_capacity(table[table["contender"] != "c"])["capacity"]) == {0.3, 1.0}


def test_one_policy_is_no_comparison():
    with pytest.raises(MissingData, match="figure=tpot_by_policy needs at least two policies: python -m sim run -m"):
        tpot_by_policy(study_of(run("lru"), run("lru", batch_size=3)))


def test_alpha_has_a_line_per_set_up():
    table = study_of(
        *(run(f"importance policy.alpha={a}", 40 - 10 * a + shift, alpha=a, setup=setup, substitution="score_band",
              **{"decode.lost_gate_mass": a / 2})
          for a in (0.4, 0.0, 0.2) for setup, shift in (("s1", 0.0), ("s3", 5.0))),
        run("lru"),
    )  # fmt: skip
    figure = alpha(table, 2)
    times, lost = figure.axes
    assert legend(figure) == ["s1", "s3"]
    handles, _ = times.get_legend_handles_labels()
    np.testing.assert_allclose(handles[1].lines[0].get_xydata(), [[0, 45], [0.2, 43], [0.4, 41]])
    np.testing.assert_allclose(lost.lines[0].get_ydata(), [0, 10, 20])
    assert lost.get_ylabel().endswith("(%)")
    with pytest.raises(MissingData, match=r"runs that differ in policy.alpha: python -m sim run -m .*policy.alpha="):
        alpha(study_of(run("importance", alpha=0.3), run("lru")))


CHAIN_ROWS = (
    run("lru", 50.0),
    run("lru eviction=score_window", 40.0, eviction="score_window"),
    run("two", 20.0, eviction="score_window", substitution="score_band"),
    run("three", 15.0, eviction="score_window", substitution="score_band", prefetch="top_score", **SMOE),
    run("importance", 12.0, eviction="score_window", substitution="score_band", prefetch="top_score",
        assignment="two_pointer", **SMOE),
)  # fmt: skip


def test_the_chain_adds_one_part_at_a_time_in_the_paper_s_order():
    others = (run("belady", 30.0, eviction="belady"), run("x", 10.0, substitution="score_band"))
    (members,) = chains(study_of(*others, *CHAIN_ROWS)).values()
    assert list(members["step"]) == ["LRU", "+eviction", "+router", "+prefetch", "+CPU"]
    assert list(members["contender"])[1] == "lru eviction=score_window"  # not belady: it is no part of the whole
    figure = chain(study_of(*others, *CHAIN_ROWS), 2)
    assert heights(figure.axes[0]) == [[50, 40, 20, 15, 12]]
    assert words(figure.axes[0]) == ["-20 %", "-50 %", "-25 %", "-20 %"]
    assert figure.axes[1].get_ylabel() == "Cache ratio, decode (%)"


def test_a_gap_ends_the_chain():
    (members,) = chains(study_of(*CHAIN_ROWS[:3], CHAIN_ROWS[4])).values()
    assert list(members["step"]) == ["LRU", "+eviction", "+router"]
    with pytest.raises(MissingData, match="SMoE's parts added one by one"):
        chain(study_of(CHAIN_ROWS[0], *CHAIN_ROWS[2:]))


def test_eviction_rules_are_compared_where_nothing_else_differs():
    table = study_of(
        run("lru", 40.0, eviction="lru", **{"decode.hit_rate": 0.4}),
        run("lru", 30.0, eviction="lfu", **{"decode.hit_rate": 0.3}),
        run("importance", 10.0, eviction="score_window", substitution="score_band", **{"decode.hit_rate": 0.9}),
    )
    hits, times = evictions(table, 2).axes
    assert [tick.get_text() for tick in hits.get_xticklabels()] == ["lfu", "lru"]
    assert heights(hits) == [[30], [40]]
    assert heights(times) == [[30], [40]]
    with pytest.raises(MissingData, match="differ in the eviction rule alone: python -m sim run -m"):
        evictions(table.iloc[[0, 2]])
