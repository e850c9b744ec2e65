"""Equivalence by margin, by hand."""

import pytest

from sim.statistics.margin import above, within


@pytest.mark.parametrize(
    ("low", "high", "inside", "beyond"),
    [
        (-0.5, 0.9, "yes", "no"),
        (-0.5, 1.1, "undecided", "undecided"),
        (1.0, 1.1, "no", "undecided"),  # the margin itself is not inside, and not larger than itself
        (1.1, 1.3, "no", "yes"),
        (-3.0, -1.0, "no", "no"),
        (-3.0, 3.0, "undecided", "undecided"),
        (-1.0, 0.0, "undecided", "no"),
        (None, None, "undecided", "undecided"),
        (float("nan"), float("nan"), "undecided", "undecided"),
    ],
)
def test_an_interval_decides_or_does_not(low, high, inside, beyond):
    assert within(low, high, 1.0) == inside
    assert above(low, high, 1.0) == beyond
