"""A merit with ties broken by recency in one float64, as the engine compares victims by one number."""

from __future__ import annotations

from policies.jitable import jitable

RECENCY_UNIT = 2.0**-33
"""What one tick of a rule's own clock adds to a merit."""


@jitable
def with_recency(merit: float, clock: float) -> float:
    """A whole-number merit, and among equals the ``clock`` of the last touch: the older is lower.

    Exact while the clock is below 2**33 and the merit at most 2**20: 33 bits behind the point and 20 before it fill the
    53 of a float64. Above that only touches next to each other on the clock become ties. The clock counts touches, not
    layer steps, so that the experts of one step have an order too.
    """
    return merit + clock * RECENCY_UNIT
