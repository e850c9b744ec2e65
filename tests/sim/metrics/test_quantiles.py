"""Means and quantiles from a file against numpy's on the whole array."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.metrics.quantiles
import sim.spill
from sim.metrics.quantiles import order_statistics, quantiles, total
from sim.spill import Spill

SAME_ORDER = np.lib.NumpyVersion(np.__version__) >= "2.4.0"
"""numpy 2.1 adds 100,003 numbers in another order, so that the last bit differs."""
SHARES = [0, 0.5, 0.9, 0.99, 1]


def spilled(values, dtype=np.int64, piece=7):
    spill = Spill(dtype)
    for start in range(0, len(values), piece):
        spill.append(np.array(values[start : start + piece], dtype))
    return spill


def test_ranks_by_hand():
    assert order_statistics(spilled([30, 10, 20, 10]), [0, 1, 2, 3]) == [10, 10, 20, 30]
    assert quantiles(spilled([30, 10, 20, 10]), [0.5, 0.9], np.float64) == [15.0, pytest.approx(27.0)]
    assert quantiles(spilled([7]), [0.5, 0.99], np.float64) == [7.0, 7.0]


@settings(max_examples=60, deadline=None)
@given(
    values=st.one_of(
        st.lists(st.integers(0, 2**62), min_size=1, max_size=60),
        st.lists(st.integers(-5, 5), min_size=1, max_size=60),
        st.lists(st.integers(10**9, 10**9 + 10**6), min_size=1, max_size=60),
    ),
    digit_bits=st.sampled_from([1, 3, 14]),
)
def test_every_rank_equals_the_sorted_value(values, digit_bits):
    before, sim.metrics.quantiles.DIGIT_BITS = sim.metrics.quantiles.DIGIT_BITS, digit_bits
    try:
        assert order_statistics(spilled(values), range(len(values))) == sorted(values)
    finally:
        sim.metrics.quantiles.DIGIT_BITS = before


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 700), spread=st.sampled_from([1, 3, 1000, 10**9]))
def test_quantiles_equal_numpy_to_the_last_bit(seed, count, spread):
    values = np.random.default_rng(seed).integers(0, spread, count) + 10**6
    found = quantiles(spilled(values, piece=97), SHARES, lambda ns: ns / 1e9)
    assert found == [float(np.quantile(values / 1e9, share)) for share in SHARES]


@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000, 4096, 100_003])
def test_the_sum_equals_numpy_to_the_last_bit(monkeypatch, count):
    values = np.random.default_rng(count).random(count) * 10.0 ** np.random.default_rng(1).integers(-9, 9, count)
    expected = float(np.sum(values))
    if not SAME_ORDER:
        expected = pytest.approx(expected, rel=1e-15)
    assert total(spilled(values, np.float64, 1000), np.asarray) == expected
    monkeypatch.setattr(sim.metrics.quantiles, "LEAF", 256)
    assert total(spilled(values, np.float64, 1000), np.asarray) == expected


def test_rows_come_back_from_a_spill_as_they_went_in(monkeypatch):
    spill = Spill(np.uint32, 3)
    rows = np.arange(30, dtype=np.uint32).reshape(10, 3)
    spill.append(rows[:4])
    spill.write(4, rows[4:])
    assert len(spill) == 10
    np.testing.assert_array_equal(spill.read(2, 5), rows[2:7])
    monkeypatch.setattr(sim.spill, "CHUNK_BYTES", 3 * 3 * 4)
    assert [len(chunk) for chunk in spill.chunks()] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(list(spill.chunks())), rows)
    with pytest.raises(IndexError):
        spill.read(8, 3)
