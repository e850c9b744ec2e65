"""Runs of very many requests: neighbours are drawn together, values stay, clusters stay whole."""

import numpy as np
import pandas as pd
import pytest

from sim.statistics import run_sample
from sim.statistics.run_sample import Run, intervals, value_of

METRICS = ("hit_rate", "tpot_s.mean", "tpot_s.p90")


def many(count: int, **columns: np.ndarray) -> Run:
    rng = np.random.default_rng(0)
    blocks = pd.DataFrame({"group": np.arange(count), "phase": 1, "hits": rng.integers(0, 100, count), "demanded": 100})
    requests = pd.DataFrame({"group": np.arange(count), "tpot_s": rng.gamma(4.0, 1.0, count)} | columns)
    return Run("a", blocks, requests)


def test_beyond_the_most_blocks_neighbours_are_one_and_value_and_spread_stay(monkeypatch):
    whole = many(4001)
    assert whole.num_blocks == 4001
    alone = intervals(whole, METRICS)
    monkeypatch.setattr(run_sample, "MOST_BLOCKS", 400)
    fewer = many(4001)
    assert fewer.num_blocks == 400
    sizes = np.bincount(fewer.block_of)
    assert set(sizes) == {10, 11} and (np.diff(fewer.block_of) >= 0).all()
    together = intervals(fewer, METRICS)
    for name in METRICS:
        assert value_of(fewer, name) == pytest.approx(value_of(whole, name), rel=1e-12)
    for name in METRICS[:2]:
        lengths = [found[name].high - found[name].low for found in (alone, together)]
        assert lengths[1] == pytest.approx(lengths[0], rel=0.15)


def test_requests_that_depend_on_each_other_stay_in_one_block(monkeypatch):
    monkeypatch.setattr(run_sample, "MOST_BLOCKS", 100)
    clusters = np.random.default_rng(1).integers(0, 700, 4000)
    run = many(4000, cluster=clusters)
    assert run.num_blocks == 100
    for cluster in set(clusters.tolist()):
        assert len(set(run.block_of[clusters == cluster])) == 1


def test_few_blocks_stay_as_they_are():
    assert many(50).block_of.tolist() == list(range(50))
