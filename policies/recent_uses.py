"""For rules that go by how often experts were used lately: exact counts over the last tokens of each layer.

Cells of a rule's memory: per layer [0] tokens seen, then counts [E], then a ring [window, K] of ids + 1, 0 for none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import State

Memory = NDArray[np.float64]


def recent_uses_size(num_layers: int, num_experts: int, num_ranks: int, window: int) -> int:
    """Cells that the counts of all layers take."""
    return num_layers * (1 + num_experts + window * num_ranks)


@jitable
def recent_counts(state: State, memory: Memory, window: int) -> Memory:
    """How many of the last ``window`` tokens used each expert of the current layer, [E], as a view."""
    first = state.layer * (1 + state.num_experts + window * state.num_ranks)
    return memory[first + 1 : first + 1 + state.num_experts]


@jitable
def count_step(state: State, memory: Memory, window: int) -> int:
    """Count the routed experts of the step's tokens in the current layer -> tokens seen before."""
    first = state.layer * (1 + state.num_experts + window * state.num_ranks)
    counts, ring = recent_counts(state, memory, window), first + 1 + state.num_experts
    seen = int(memory[first])
    for token in range(state.num_tokens):
        place = ring + (seen + token) % window * state.num_ranks
        for rank in range(state.num_ranks):
            old = int(memory[place + rank]) - 1
            if old >= 0:
                counts[old] -= 1.0
            memory[place + rank] = 0.0
            if rank < state.token_ranks[token]:
                memory[place + rank] = state.ids[token, rank] + 1.0
                counts[state.ids[token, rank]] += 1.0
    memory[first] = seen + state.num_tokens
    return seen
