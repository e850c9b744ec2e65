"""Measures and intervals: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sim.quality.cloze import cloze_item, log_likelihood
from sim.quality.generation import match_length
from sim.quality.intervals import FEWEST, block_sums, difference, estimate, mean_of, perplexity_ratio
from sim.quality.measures import COLUMNS, per_token
from sim.quality.metrics import Row, put
from sim.quality.report import interval
from sim.quality.settings import ClozeConfig
from sim.quality.windows import Windows
from traces.errors import UserError


def test_measures_of_two_tokens_by_hand() -> None:
    base = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [1.0, 1.0, 1.0]]).log()
    changed = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6], [1.0, 1.0, 1.0]]).log()
    columns = dict(zip(COLUMNS, per_token(base, changed, np.array([0, 1, 2])).T, strict=True))
    assert columns["nll_base"] == pytest.approx([np.log(4), np.log(1 / 0.6)])
    assert columns["nll"] == pytest.approx([np.log(2), np.log(1 / 0.6)])
    assert columns["kl"] == pytest.approx([0.5 * np.log(2) - 0.25 * np.log(2), 0.0], abs=1e-6)
    assert columns["agree"].tolist() == [0.0, 1.0]
    assert columns["correct_base"].tolist() == [0.0, 1.0]
    assert columns["correct"].tolist() == [1.0, 1.0]


def test_block_sums_and_statistics() -> None:
    sums = block_sums(np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]]), ["a", "b", "a"])
    assert sums.tolist() == [[6.0, 10.0, 2.0], [3.0, 2.0, 1.0]]
    assert estimate(sums, mean_of(0)).value == 3.0
    assert estimate(sums, difference(0, 1)).value == 1.0
    assert estimate(sums, perplexity_ratio(0, 1)).value == pytest.approx(np.exp(1.0))


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for trial in range(200):
        sums = block_sums(rng.normal(1.0, 1.0, (40, 1)), [str(i) for i in range(40)])
        found = estimate(sums, mean_of(0), draws=400, seed=trial)
        assert found.low is not None and found.high is not None
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("documents", [2, 4, 5, 6])
def test_few_documents_have_no_interval(documents: int) -> None:
    """Four equal continuations of one token or all of them would give 12 tokens [-98, 122]."""
    tokens = np.array([[0.0], [32.0], [1.0], [16.0], [30.0], [7.0]])[:documents]
    found = estimate(block_sums(tokens, [str(i) for i in range(documents)]), mean_of(0))
    assert (found.low is None) == (found.high is None) == (documents < FEWEST)
    row: Row = {}
    put(row, "match", found)
    shown = interval(row, "match", lambda value: f"{value:.1f}")
    assert shown.endswith("[too few]") == (documents < FEWEST) and shown.startswith(f"{found.value:.1f} [")


def test_one_block_has_no_interval() -> None:
    found = estimate(block_sums(np.ones((3, 1)), ["a"] * 3), mean_of(0))
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_a_cloze_item_begins_with_the_truth_and_ends_with_other_documents() -> None:
    tokens = np.arange(4)[:, None] * 100 + np.arange(10)
    windows = Windows(tokens, ("a", "b", "a", "c"), ("x", "x", "x", "y"))
    item = cloze_item(windows, 0, ClozeConfig(items=1, choices=3, context_tokens=4, continuation_tokens=2), 0)
    assert item[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (item[:, :4] == item[0, :4]).all()
    assert sorted(item[1:, 4].tolist()) == [104, 304]  # window 2 is of the same document
    with pytest.raises(UserError, match=r"cloze\.choices=4"):
        cloze_item(windows, 0, ClozeConfig(items=1, choices=4, context_tokens=4, continuation_tokens=2), 0)


def test_log_likelihood_of_a_continuation() -> None:
    logits = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]).log()
    assert log_likelihood(logits, np.array([0, 0, 1, 1]), 2) == pytest.approx(np.log(0.1 * 0.8))


def test_match_length() -> None:
    assert match_length(np.array([1, 2, 3]), np.array([1, 2, 3])) == 3
    assert match_length(np.array([1, 2, 3]), np.array([1, 9, 3])) == 1
