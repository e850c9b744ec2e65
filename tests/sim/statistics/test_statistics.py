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
from sim.statistics.bootstrap import (
    blocks_needed,
    difference,
    drawn_sums,
    estimate,
    quantile_estimate,
    request_interval,
)
from sim.statistics.pairs import compare, holm
from sim.statistics.run_sample import Run, intervals, quantile_draws, value_of
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


def test_p_agrees_with_the_paired_t_test_and_with_the_interval():
    rng = np.random.default_rng(3)
    slow, fast = rng.normal(10, 2, 40), rng.normal(9.5, 2, 40)
    row = compare([run_of("slow", slow), run_of("fast", fast)], "tpot_s.mean").iloc[0]
    assert row["p"] == pytest.approx(stats.ttest_rel(slow, fast).pvalue, abs=0.03)
    assert row["p"] >= stats.ttest_rel(slow, fast).pvalue - 1e-12  # never surer than Student
    assert row["value"] == pytest.approx(slow.mean()) and row["against_value"] == pytest.approx(fast.mean())
    assert row["difference"] == pytest.approx((slow - fast).mean())
    assert row["ratio"] == pytest.approx(slow.mean() / fast.mean())


@given(st.integers(0, 40), st.integers(2, 30))
def test_p_is_below_5_percent_where_the_interval_leaves_out_0(seed, blocks):
    rng = np.random.default_rng(seed)
    a, b = (run_of(name, rng.gamma(2, scale, blocks)) for name, scale in (("a", 1.0), ("b", 1.8)))
    row = compare([a, b], "tpot_s.mean", draws=200).iloc[0]
    outside = row["difference_low"] > 0 or row["difference_high"] < 0
    assert outside == (row["p"] < 0.05)


def test_standard_errors_are_those_of_the_delta_method_by_hand():
    # Two and three blocks have Student's interval: mean -+ t sd / sqrt(n).
    for values in ([1.0, 3.0], [1.0, 3.0, 8.0]):
        n, mean = len(values), np.mean(values)
        half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
        found = request_interval(np.array(values), np.ones(n), draws=0)
        assert found == pytest.approx((mean - half, mean + half))
    above, below = np.array([1.0, 4.0, 2.0, 5.0]), np.array([2.0, 3.0, 1.0, 6.0])
    influence = (above - above.sum() / below.sum() * below) / below.mean()
    half = stats.t.ppf(0.975, 3) * influence.std(ddof=1) / 2
    low, high = request_interval(above, below, draws=0)
    assert (low, high) == pytest.approx((1 - half, 1 + half))


def test_nothing_but_rounding_is_no_spread():
    base = np.array([0.1, 0.7, 1.3, 2.9])
    found = estimate(np.stack([3 * base, base, 2 * base, base], axis=1), difference)
    assert found.low == found.value == found.high == pytest.approx(1)
    assert found.p_value() == 0 and found.p_value(found.value) == 1


@pytest.mark.parametrize(("share", "blocks"), [(0.5, 10), (0.9, 50), (0.99, 500)])
def test_a_quantile_has_an_interval_from_as_many_blocks_as_it_takes(share, blocks):
    values = np.random.default_rng(1).permutation(np.arange(1.0, blocks + 1))
    assert blocks_needed(share) == blocks
    found = quantile_estimate(values, np.arange(blocks), share)
    below = stats.binom(blocks, share).cdf
    low, high = int(found.low), int(found.high)  # value r is the r-th
    assert found.value == np.quantile(values, share) and not found.why
    assert below(low - 1) <= 0.025 < below(low) and 1 - below(high - 1) <= 0.025 < 1 - below(high - 2)
    refused = quantile_estimate(values[:-1], np.arange(blocks - 1), share)
    assert np.isnan(refused.interval).all() and np.isnan(refused.p_value())
    assert f"of {blocks - 1} requests has no interval: that takes {blocks}" in refused.why


def test_blocks_count_for_quantiles_and_not_their_requests():
    values, places = np.repeat(np.arange(50.0), 3), np.repeat(np.arange(50), 3)
    alike, single = quantile_estimate(values, places, 0.9), quantile_estimate(np.arange(50.0), np.arange(50), 0.9)
    assert alike.interval == single.interval
    few = quantile_estimate(values, places // 2, 0.9)
    assert "p90 of 150 requests in 25 blocks has no interval: that takes 50, 5 / 0.1" in few.why


def test_a_comparison_of_quantiles_says_why_it_has_no_interval():
    rng = np.random.default_rng(2)
    base = rng.gamma(3, 1, 60)
    a, b = run_of("a", base), run_of("b", base * rng.normal(1.5, 0.01, 60))
    enough = compare([a, b], "tpot_s.p90").iloc[0]
    assert enough["difference_low"] < enough["difference"] < enough["difference_high"] < 0 and enough["distinguishable"]
    assert enough["low"] < enough["value"] < enough["high"] and enough["why"] == ""
    rare = compare([a, b], "tpot_s.p99").iloc[0]
    assert np.isnan(rare[["low", "difference_low", "ratio_high", "p"]].astype(float)).all()
    assert rare["why"] == "p99 of 60 requests has no interval: that takes 500, 5 / 0.01" and not rare["distinguishable"]
    assert rare["value"] == np.quantile(base, 0.99)


def clustered(clusters, groups=None, **changed) -> Run:
    """A run whose requests are of these clusters."""
    run = run_of("a", np.arange(1.0, len(clusters) + 1), **changed)
    groups = np.arange(len(clusters)) if groups is None else np.asarray(groups)
    blocks = run.blocks.assign(group=groups).groupby(["group", "phase"], as_index=False).sum()
    return replace(run, blocks=blocks, requests=run.requests.assign(group=groups, cluster=clusters))


def test_conversations_are_drawn_as_wholes():
    run = clustered([0, 0, 1, 2, 2, 3, 4, 5])
    assert run.num_blocks == 6 and run.block_of.tolist() == [0, 0, 1, 2, 2, 3, 4, 5]
    found = intervals(run, ["tpot_s.mean"])["tpot_s.mean"]
    sums, counts = np.array([3.0, 3, 9, 6, 7, 8]), np.array([2.0, 1, 2, 1, 1, 1])
    assert found.interval == pytest.approx(request_interval(sums, counts))


def test_few_data_sets_are_not_drawn():
    run = clustered([0, 0, 1, 1, 2, 2, 3, 4])
    assert run.num_blocks == 8


def test_batches_that_share_a_conversation_are_one_block():
    # Batches of two: 0 and 1 share cluster 1, 1 and 2 cluster 2; the rest stand alone.
    clusters = [0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    run = clustered(clusters, np.arange(16) // 2)
    assert run.block_of.tolist() == [0, 0, 0, 1, 2, 3, 4, 5]
    mixed = clustered([*clusters[:8], 5, 4, 7, 6, 6, 8, 8, 7], np.arange(16) // 2)  # too few that share no batch
    assert mixed.num_blocks == 8


def test_intervals_stay_within_what_can_be():
    run = run_of("a", [1, 9, 1, 1], hits=[4, 4, 3, 4])
    found = intervals(run, ["hit_rate", "tpot_s.mean"])
    assert found["hit_rate"].high == 1.0 and found["tpot_s.mean"].low == 0.0


def test_intervals_agree_with_scipy_s_bootstrap():
    rng = np.random.default_rng(4)
    hits, demanded = rng.binomial(40, 0.6, 200).astype(float), rng.integers(40, 80, 200).astype(float)
    theirs = stats.bootstrap(
        (hits, demanded), lambda h, d, axis: h.sum(axis) / d.sum(axis), paired=True, method="percentile", random_state=5
    ).confidence_interval
    low, high = request_interval(hits, demanded, draws=9999)
    assert low == pytest.approx(theirs.low, abs=0.001) and high == pytest.approx(theirs.high, abs=0.001)
    assert request_interval(hits, demanded, draws=9999) == (low, high)


def test_drawn_quantiles_are_numpy_s():
    # With one block every draw is the whole: its quantiles are those of all values.
    values = np.array([3.0, 1.0, 2.0, 10.0, 7.0])
    whole = run_of("a", values)
    one = replace(whole, requests=whole.requests.assign(group=0), blocks=whole.blocks.assign(group=0))
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert value_of(one, f"tpot_s.{name}") == np.quantile(values, q)
        np.testing.assert_allclose(quantile_draws(one, quantity_of(f"tpot_s.{name}"), 7), np.quantile(values, q))


def test_paired_differences_are_found_that_unpaired_intervals_hide():
    rng = np.random.default_rng(7)
    base = rng.gamma(2, 1.0, 30)  # requests differ by a factor, the two policies by 2 %
    a, b = run_of("a", base * rng.normal(1, 0.005, 30)), run_of("b", 1.02 * base * rng.normal(1, 0.005, 30))
    row = compare([a, b], "tpot_s").iloc[0]
    assert row["distinguishable"] and row["wins"] == 1.0  # a is faster in every draw
    assert row["difference_high"] < 0 and row["ratio_high"] < 1
    low, high = intervals(b, ["tpot_s.mean"])["tpot_s.mean"].interval
    assert low < row["value"] < high


@pytest.mark.slow
def test_equal_policies_are_called_different_in_five_of_a_hundred():
    rng, found = np.random.default_rng(8), 0
    for _ in range(400):
        base = rng.gamma(2, 1.0, 20)
        a, b = (run_of(name, base + rng.normal(0, 0.1, 20)) for name in "ab")
        found += compare([a, b], "tpot_s.mean", draws=20).iloc[0]["p"] < 0.05
    assert 0.02 <= found / 400 <= 0.085


@pytest.mark.slow
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
    low, high = intervals(unsure, ["tpot_s.mean"])["tpot_s.mean"].interval
    assert (high - low) / 2 == pytest.approx(1.96 * 10 * 0.6 * 0.1, rel=0.1)
    hardly = replace(unsure, errors=unsure.errors | {"link_latency_s": 1.0})
    hardly = replace(hardly, elasticities={"link_bytes_per_s": {"link": -0.99}, "link_latency_s": {"link": 0.01}})
    low, high = intervals(hardly, ["tpot_s.mean"])["tpot_s.mean"].interval
    assert (high - low) / 2 == pytest.approx(1.96 * 10 * 0.6 * 0.1, rel=0.1)  # a latency that matters little
    plain, wide = (intervals(one, ["hit_rate"])["hit_rate"].interval for one in (run, unsure))
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
