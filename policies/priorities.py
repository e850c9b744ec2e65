"""For eviction rules: what several of them make priorities of, and when statistics begin anew."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import State

Vector = NDArray[np.float64]

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


@jitable
def nearness(layer: int, current: int, num_layers: int) -> float:
    """1 for the current layer, 1 - 1/L for the next one, down to 1/L for the one just left."""
    return 1.0 - ((layer - current) % num_layers) / num_layers


@jitable
def first_call(state: State, memory: Vector) -> bool:
    """Whether a rule is called for the first time in this layer step; ``memory[0]`` holds the time of the last call."""
    if memory[0] == state.now:
        return False
    memory[0] = state.now
    return True
