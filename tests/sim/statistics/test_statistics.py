"""Intervals and paired comparisons: against hand calculation, against scipy, and on data whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sim.metrics.registry import MEASURES, QUANTITIES, quantity_of
from sim.statistics.bootstrap import drawn_sums, interval, request_interval
from sim.statistics.pairs import compare, holm
from sim.statistics.run_sample import Run, draws_of, intervals, value_of
from traces.errors import UserError


def run_of(series: str, tpot=None, hits=None, demanded=None, **changed) -> Run:
    """A run whose requests decoded one at a time."""
    count = len(tpot if tpot is not None else hits)
    hits = np.ones(count) if hits is None else np.asarray(hits, float)
    blocks = {"group": np.arange(count), "phase": 1, "hits": hits, "num_tokens": 2.0}
    blocks["demanded"] = np.full(count, 4.0) if demanded is None else np.asarray(demanded, float)
    requests = {"group": np.arange(count)} | ({} if tpot is None else {"tpot_s": np.asarray(tpot, float)})
    return replace(Run(series, pd.DataFrame(blocks), pd.DataFrame(requests), ("t", 1), "machine"), **changed)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04; never falling: .04 .06 .06 .06.
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.02])), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, np.nan, 0.02])), [0.5, np.nan, 0.04])
    np.testing.assert_array_equal(holm(np.array([0.9, 0.8])), [1, 1])
    assert holm(np.empty(0)).size == 0


@given(arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_holm_never_lowers_p_nor_changes_the_order_nor_exceeds_bonferroni(p_values):
    corrected = holm(p_values)
    assert (corrected >= p_values).all() and (corrected <= 1).all()
    assert (corrected <= np.minimum(1, p_values * len(p_values) + 1e-15)).all()
    assert (np.diff(corrected[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_p_of_equally_long_requests_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(3)
    slow, fast = rng.normal(10, 2, 40), rng.normal(9.5, 2, 40)
    row = compare([run_of("slow", slow), run_of("fast", fast)], "tpot_s.mean").iloc[0]
    assert row["p"] == pytest.approx(stats.ttest_rel(slow, fast).pvalue)
    assert row["value"] == pytest.approx(slow.mean()) and row["against_value"] == pytest.approx(fast.mean())
    assert row["difference"] == pytest.approx((slow - fast).mean())
    assert row["ratio"] == pytest.approx(slow.mean() / fast.mean())


def test_intervals_agree_with_scipy_s_bootstrap():
    rng = np.random.default_rng(4)
    hits, demanded = rng.binomial(40, 0.6, 200).astype(float), rng.integers(40, 80, 200).astype(float)
    theirs = stats.bootstrap(
        (hits, demanded), lambda h, d, axis: h.sum(axis) / d.sum(axis), paired=True, method="percentile", rng=5
    ).confidence_interval
    low, high = request_interval(hits, demanded, draws=9999)
    assert low == pytest.approx(theirs.low, abs=0.001) and high == pytest.approx(theirs.high, abs=0.001)


def test_drawn_quantiles_are_numpy_s():
    # With one block every draw is the whole: its quantiles are those of all values.
    values = np.array([3.0, 1.0, 2.0, 10.0, 7.0])
    whole = run_of("a", values)
    one = replace(whole, requests=whole.requests.assign(group=0), blocks=whole.blocks.assign(group=0))
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert value_of(one, f"tpot_s.{name}") == np.quantile(values, q)
        np.testing.assert_allclose(draws_of(one, f"tpot_s.{name}", 7), np.quantile(values, q))


@pytest.mark.parametrize("blocks", [6, 24])
def test_the_interval_covers_what_it_claims(blocks):
    # Skewed requests of unequal length; truth 0.3 / 1 by construction. 800 samples: +-1.5 points are two errors.
    rng, covered = np.random.default_rng(6), 0
    for _ in range(800):
        length = rng.gamma(4, 0.25, blocks)
        low, high = request_interval(length * rng.beta(3, 7, blocks), length, draws=400)
        covered += low <= 0.3 <= high
    assert 0.915 <= covered / 800 <= 0.975


def test_paired_differences_are_found_that_unpaired_intervals_hide():
    rng = np.random.default_rng(7)
    base = rng.gamma(2, 1.0, 30)  # requests differ by a factor, the two policies by 2 %
    a, b = run_of("a", base * rng.normal(1, 0.005, 30)), run_of("b", 1.02 * base * rng.normal(1, 0.005, 30))
    row = compare([a, b], "tpot_s").iloc[0]
    assert row["distinguishable"] and row["wins"] == 1.0  # a is faster in every draw
    assert row["difference_high"] < 0 and row["ratio_high"] < 1
    low, high = intervals(b, ["tpot_s.mean"])["tpot_s.mean"]
    assert low < row["value"] < high


def test_equal_policies_are_called_different_in_five_of_a_hundred():
    rng, found = np.random.default_rng(8), 0
    for _ in range(400):
        base = rng.gamma(2, 1.0, 20)
        a, b = (run_of(name, base + rng.normal(0, 0.1, 20)) for name in "ab")
        found += compare([a, b], "tpot_s.mean", draws=20).iloc[0]["p"] < 0.05
    assert 0.02 <= found / 400 <= 0.085


def test_holm_holds_the_share_of_sweeps_with_a_false_find():
    rng, found = np.random.default_rng(9), 0
    for _ in range(150):
        base = rng.gamma(2, 1.0, 20)
        runs = [run_of(str(i), base + rng.normal(0, 0.1, 20)) for i in range(5)]
        found += compare(runs, "tpot_s.mean", draws=20)["distinguishable"].any()
    assert found / 150 <= 0.09  # uncorrected: about 0.29


def test_all_pairs_or_one_baseline():
    runs = [run_of(name, [1.0 + i, 2.0, 3.5]) for i, name in enumerate("abc")]
    pairs = compare(runs, "tpot_s.mean")
    assert list(zip(pairs["series"], pairs["against"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    against = compare(runs, "tpot_s.mean", baseline="b")
    assert list(against["series"]) == ["a", "c"] and set(against["against"]) == {"b"}
    assert against["difference"].tolist() == pytest.approx([-1 / 3, 1 / 3])


def test_more_hits_win_and_fewer_bytes_win():
    more, fewer = run_of("more", hits=[4, 3, 4]), run_of("fewer", hits=[1, 2, 1])
    assert compare([more, fewer], "hit_rate").iloc[0]["wins"] == 1.0
    bytes_of = [replace(run, blocks=run.blocks.assign(copied_bytes=run.blocks["hits"])) for run in (more, fewer)]
    assert compare(bytes_of, "bytes_per_token").iloc[0]["wins"] == 0.0
    assert compare([more, replace(more, series="same")], "hit_rate").iloc[0][["wins", "p"]].tolist() == [0.5, 1.0]


def test_uncertain_figures_widen_times_but_not_rates():
    rng = np.random.default_rng(10)
    run = run_of("a", rng.normal(10, 0.1, 50))
    parts = {"token_link_ns": 60.0, "token_expert_ns": 40.0}  # 60 % of a token waits for the link
    run = replace(run, blocks=run.blocks.assign(**parts))
    unsure = replace(run, errors={"link_bytes_per_s": 0.1})
    low, high = intervals(unsure, ["tpot_s.mean"])["tpot_s.mean"]
    assert (high - low) / 2 == pytest.approx(1.96 * 10 * 0.6 * 0.1, rel=0.1)
    plain, wide = (intervals(one, ["hit_rate"])["hit_rate"] for one in (run, unsure))
    assert plain == wide


def test_policies_of_one_machine_err_together():
    rng = np.random.default_rng(11)
    base = rng.normal(10, 0.1, 50)
    blocks = run_of("a", base).blocks.assign(token_link_ns=1.0)
    a = run_of("a", base, blocks=blocks, errors={"link_bytes_per_s": 0.1})
    b = run_of("b", 1.05 * base + rng.normal(0, 0.01, 50), blocks=blocks, errors={"link_bytes_per_s": 0.1})
    together = compare([a, b], "tpot_s.mean").iloc[0]
    assert together["wins"] == 1.0 and together["distinguishable"]  # 5 % apart, each known to 10 %
    apart = compare([a, replace(b, hardware="other")], "tpot_s.mean").iloc[0]
    assert 0.5 < apart["wins"] < 0.8 and not apart["distinguishable"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (run_of("b", [1.0, 2.0], replayed=("u", 1)), "trace t at batch size 1 in 2 batches, the second u"),
        (run_of("b", [1.0, 2.0], replayed=("t", 2)), "the second t at batch size 2"),
        (run_of("b", [1.0, 2.0, 3.0]), "in 3; they must be the same"),
        (run_of("a", [1.0, 2.0]), "the same name"),
        (run_of("b", hits=[1, 2]), "tpot_s.mean of b is not known"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, words):
    with pytest.raises(UserError, match=words):
        compare([run_of("a", [1.0, 2.0]), other], "tpot_s.mean")


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="baseline=c is not one of the runs: they are a, b"):
        compare([run_of("a", [1, 2]), run_of("b", [1, 2])], "tpot_s.mean", baseline="c")
    with pytest.raises(UserError, match="metric speed is not known"):
        quantity_of("speed")


def test_one_request_gives_no_interval():
    row = compare([run_of("a", [1.0]), run_of("b", [2.0])], "tpot_s.mean").iloc[0]
    assert np.isnan(row[["low", "difference_low", "p", "p_holm"]].astype(float)).all() and not row["distinguishable"]


def test_every_quantity_is_found_by_its_name():
    assert all(quantity_of(name).name == name for name in [*QUANTITIES, *MEASURES, "tpot_s"])
    with pytest.raises(UserError, match="metric itl_s is not known"):
        quantity_of("itl_s")


@given(
    arrays(float, (7, 2), elements=st.floats(0.5, 100)),
    st.integers(0, 3),
)
def test_draws_stay_within_the_blocks_extremes_and_repeat(values, seed):
    sums = drawn_sums(values, 50, seed)
    ratios, each = sums[:, 0] / sums[:, 1], values[:, 0] / values[:, 1]
    assert (ratios >= each.min() - 1e-9).all() and (ratios <= each.max() + 1e-9).all()
    np.testing.assert_array_equal(sums, drawn_sums(values, 50, seed))


def test_pieces_of_draws_are_each_drawn_afresh(monkeypatch):
    monkeypatch.setattr("sim.statistics.bootstrap.CELLS", 40)  # four draws of ten blocks at once
    sums = drawn_sums(np.arange(10.0)[:, None], 12)
    assert len(sums) == 12 and len(np.unique(sums)) > 6
    assert interval(np.arange(1001.0), 10**6) == pytest.approx((25, 975), abs=0.01)
