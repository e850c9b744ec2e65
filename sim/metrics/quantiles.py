"""Exact means and quantiles of more numbers than memory holds, equal to numpy's to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.spill import Spill

LEAF = 1 << 16
DIGIT_BITS = 14
Convert = Callable[[NDArray[Any]], NDArray[np.float64]]


def order_statistics(values: Spill, ranks: Sequence[int]) -> list[int]:
    """The values that stand at ``ranks`` (from 0) when the whole numbers of a spill are sorted.

    Radix selection: each pass over the file counts the values of every interval that holds a wanted rank by their
    next ``DIGIT_BITS`` bits and keeps the part with the rank, until one value is left. Counts, not values, are held.
    """
    low = min(int(chunk.min()) for chunk in values.chunks())
    bits = (max(int(chunk.max()) for chunk in values.chunks()) - low).bit_length()
    places = [(low, rank) for rank in ranks]  # (first value of the interval, rank inside it)
    while bits > 0:
        shift = max(0, bits - DIGIT_BITS)
        counts = _count_digits(values, sorted({first for first, _ in places}), bits, shift)
        places = [_descend(counts[first], first, rank, shift) for first, rank in places]
        bits = shift
    return [first for first, _ in places]


def _count_digits(values: Spill, firsts: Sequence[int], bits: int, shift: int) -> dict[int, NDArray[np.int64]]:
    """For each interval [first, first + 2**bits): how many values lie in each of its parts of width 2**shift."""
    counts = {first: np.zeros(1 << (bits - shift), np.int64) for first in firsts}
    for chunk in values.chunks():
        for first, count in counts.items():
            offset = chunk - first
            inside = offset[(offset >= 0) & (offset >> bits == 0)]
            count += np.bincount(inside >> shift, minlength=count.size)
    return counts


def _descend(counts: NDArray[np.int64], first: int, rank: int, shift: int) -> tuple[int, int]:
    """The part of an interval that holds ``rank``, and the rank inside the part."""
    upto = np.cumsum(counts)
    part = int(np.searchsorted(upto, rank, side="right"))
    return first + (part << shift), rank - int(upto[part] - counts[part])


def quantiles(values: Spill, shares: Sequence[float], convert: Convert) -> list[float]:
    """``np.quantile(convert(all values), shares)``, linear; ``convert`` must not change the order."""
    exact = [(len(values) - 1) * share for share in shares]
    below = [int(np.floor(index)) for index in exact]
    wanted = [rank for low in below for rank in (low, min(low + 1, len(values) - 1))]
    ordered = convert(np.array(order_statistics(values, wanted)))
    return [
        _between(float(ordered[2 * i]), float(ordered[2 * i + 1]), index - low)
        for i, (index, low) in enumerate(zip(exact, below, strict=True))
    ]


def _between(low: float, high: float, share: float) -> float:
    """Linear interpolation, from the nearer end as numpy does it."""
    step = high - low
    return high - step * (1 - share) if share >= 0.5 else low + step * share


def total(values: Spill, convert: Convert, start: int = 0, count: int | None = None) -> float:
    """``np.sum(convert(all values))`` in float64.

    Numpy halves a long sum, at multiples of 8, until pieces are short; so does this, down to pieces that numpy may
    finish. The rounding does then not depend on the pieces in which the values came.
    """
    count = len(values) if count is None else count
    if count <= LEAF:
        return float(np.sum(convert(values.read(start, count))))
    half = count // 2 - count // 2 % 8
    return total(values, convert, start, half) + total(values, convert, start + half, count - half)
