"""The softmax of logits row by row, with the same result on every machine."""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

CHUNK_VALUES = 1 << 15
"""Values converted to float32 at a time: they stay in the processor's cache."""
LOG2_E, LN_2 = 1.0 / log(2.0), log(2.0)
SMALLEST = -700.0
"""Logits this far below the highest and further have probability 0 in float32."""
COARSE = 1.5 * 2.0**52
"""Floats of this size are whole numbers, and a small one added to it stands in the lowest bits."""


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Softmax over the last axis of ``logits`` [..., E] float16|float32, computed in float64, rounded once."""
    out = np.empty(logits.shape, np.float32)
    step = max(1, CHUNK_VALUES // max(1, int(np.prod(logits.shape[1:]))))
    for start in range(0, len(logits), step):
        rows = np.ascontiguousarray(logits[start : start + step], np.float32)
        softmax_rows(rows.reshape(-1, logits.shape[-1]), out[start : start + step].reshape(-1, logits.shape[-1]))
    return out


@njit(cache=True)
def softmax_rows(logits: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Write the softmax of each row of ``logits`` [n, E] to ``out`` [n, E]."""
    experts = logits.shape[1]
    shares = np.empty(experts)
    for row in range(logits.shape[0]):
        values, written = logits[row], out[row]
        top = np.float64(highest(values))
        for i in range(experts):
            shares[i] = exp(np.float64(values[i]) - top)
        scale = 1.0 / added(shares)
        for i in range(experts):
            written[i] = shares[i] * scale


@njit(cache=True)
def highest(values: NDArray[np.float32]) -> Any:
    """The highest of some values: of whole numbers in the same order, since only those are compared several at once."""
    best = in_order(values[0])
    for i in range(1, values.shape[0]):
        best = max(best, in_order(values[i]))
    return np.int32(in_order(np.int32(best).view(np.float32))).view(np.float32)


@njit(cache=True)
def in_order(value: Any) -> Any:
    """An int32 that is ordered as float32 numbers are, and back: of negative ones all bits but the sign turn over."""
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(2**31 - 1)))


@njit(cache=True)
def added(values: NDArray[np.float64]) -> Any:
    """The sum of some values; four sums in turn, because each would wait for the one before."""
    size = values.shape[0]
    a = b = c = d = 0.0
    for i in range(0, size - 3, 4):
        a, b, c, d = a + values[i], b + values[i + 1], c + values[i + 2], d + values[i + 3]
    for i in range(size - size % 4, size):
        a += values[i]
    return (a + b) + (c + d)


@njit(cache=True)
def exp(x: float) -> Any:
    """e^x for x <= 0 to 13 digits, without branches or calls, so that the compiler works on many numbers at once.

    e^x = 2^n * e^r with n the whole number nearest to x / ln 2, and e^r, |r| <= ln 2 / 2, by its Taylor series.
    """
    bounded = max(x, SMALLEST)
    shifted = bounded * LOG2_E + COARSE
    return times_power_of_two(series(bounded - (shifted - COARSE) * LN_2), shifted)


@njit(cache=True)
def series(r: float) -> float:
    """1 + r + r^2 / 2! + ... + r^10 / 10!, from the innermost bracket of 1 + r (1 + r/2 (1 + r/3 (1 + ...)))."""
    tail = 1.0 + r * (1 / 7) * (1.0 + r * (1 / 8) * (1.0 + r * (1 / 9) * (1.0 + r * (1 / 10))))
    middle = 1.0 + r * (1 / 4) * (1.0 + r * (1 / 5) * (1.0 + r * (1 / 6) * tail))
    return 1.0 + r * (1.0 + r * (1 / 2) * (1.0 + r * (1 / 3) * middle))


@njit(cache=True)
def times_power_of_two(value: Any, shifted: Any) -> Any:
    """``value`` * 2^n, where ``shifted`` is n + COARSE: n is added to the exponent among the bits of ``value``."""
    return np.int64(np.float64(value).view(np.int64) + (np.float64(shifted).view(np.int64) << 52)).view(np.float64)
