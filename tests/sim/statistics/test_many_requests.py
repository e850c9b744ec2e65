"""Runs of very many requests: quantiles stay exact, blocks are drawn in groups of neighbours, means do not change."""

import numpy as np
import pandas as pd
import pytest

from sim.metrics.registry import QUANTITIES
from sim.results import run_files
from sim.results.run_files import bounded
from sim.statistics.bootstrap import drawn_quantiles
from sim.statistics.run_sample import Run, draws_of, value_of


@pytest.mark.parametrize("size", [1, 2, 99, 101, 1234])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_quantiles_of_draws_are_numpys(size, share):
    rng = np.random.default_rng(size)
    blocks = max(1, size // 3)
    values, places = rng.normal(size=size).round(1), rng.integers(0, blocks, size)
    found = drawn_quantiles(values, places, blocks, share, 20, 7)
    chosen = np.random.default_rng([7, 0]).integers(0, blocks, (20, blocks))
    for draw, one in zip(found, chosen, strict=True):
        drawn = np.concatenate([values[places == block] for block in one])
        if drawn.size:
            assert draw == pytest.approx(np.quantile(drawn, share), abs=1e-12)
        else:
            assert np.isnan(draw)


def many(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 100, count)
    blocks = pd.DataFrame({"group": np.arange(count), "phase": 1, "hits": hits, "demanded": 100})
    return blocks, pd.DataFrame({"group": np.arange(count), "tpot_s": rng.gamma(4.0, 1.0, count)})


def test_neighbours_are_taken_together_and_the_value_and_its_spread_stay(monkeypatch):
    monkeypatch.setattr(run_files, "MOST_BLOCKS", 400)
    whole, fewer = Run("a", *many(4000)), Run("a", *bounded(*many(4000)))
    assert len(whole.groups()) == 4000 and len(fewer.groups()) == 400
    for name in ("hit_rate", "tpot_s.mean", "tpot_s.p90"):
        assert name in QUANTITIES and value_of(fewer, name) == pytest.approx(value_of(whole, name), rel=1e-12)
        assert draws_of(fewer, name).std() == pytest.approx(draws_of(whole, name).std(), rel=0.15)


def test_few_blocks_stay_as_they_are():
    blocks, requests = many(50)
    kept = bounded(blocks, requests)
    assert kept[0] is blocks and kept[1] is requests
