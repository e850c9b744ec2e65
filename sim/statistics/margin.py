"""Equivalence by a margin that is fixed beforehand: what an interval says beyond being apart from 0."""

from __future__ import annotations

import math

YES, NO, UNDECIDED = "yes", "no", "undecided"


def within(low: float | None, high: float | None, margin: float) -> str:
    """Whether a difference lies within ±margin: `yes`, `no` or `undecided`, as its interval [low, high] decides.

    `yes` where the whole interval lies inside, `no` where it lies outside on one side, `undecided` where an end of the
    margin is in it or there is no interval (None or NaN). Two one-sided tests: with 95 % intervals each at 2.5 %,
    stricter than the usual 5 %. Source: Schuirmann 1987, https://doi.org/10.1007/BF01068419.
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return UNDECIDED
    if -margin < low and high < margin:
        return YES
    return NO if low >= margin or high <= -margin else UNDECIDED


def above(low: float | None, high: float | None, margin: float) -> str:
    """Whether a difference is larger than the margin: `yes` where its whole interval is, `no` where none of it is."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return UNDECIDED
    if low > margin:
        return YES
    return NO if high <= margin else UNDECIDED
