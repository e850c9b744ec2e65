"""Softmax against numpy in higher precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from traces.format.softmax import softmax


def exact(logits):
    wide = logits.astype(np.longdouble)
    shares = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)


def test_known_rows():
    assert softmax(np.array([[0.0, 0.0]], np.float16)).tolist() == [[0.5, 0.5]]
    assert softmax(np.array([[3.0]], np.float32)).tolist() == [[1.0]]
    assert softmax(np.array([[0.0, -np.inf, -1e5]], np.float32)).tolist() == [[1.0, 0.0, 0.0]]
    thirds = softmax(np.log(np.array([[1.0, 2.0, 3.0]], np.float32)))
    np.testing.assert_allclose(thirds, [[1 / 6, 2 / 6, 3 / 6]], rtol=2e-7)


def test_empty_tables_stay_empty():
    assert softmax(np.zeros((0, 3, 4), np.float32)).shape == (0, 3, 4)


@pytest.mark.parametrize("experts", [1, 2, 3, 5, 8, 31, 64, 130])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_nearly_every_probability_is_the_nearest_float32(experts, kind):
    """Computed to 13 digits, it is the neighbour only where the truth lies halfway between two."""
    logits = (np.random.default_rng(experts).standard_normal((700, 3, experts)) * 4).astype(kind)
    found, expected = softmax(logits), exact(logits)
    np.testing.assert_allclose(found, expected, rtol=1.2e-7)
    assert (found != expected).mean() < 1e-4


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=3), elements=st.floats(-400, 400, width=32)))
def test_any_logits(logits):
    np.testing.assert_allclose(softmax(logits), exact(logits), rtol=1e-7, atol=1e-40)
