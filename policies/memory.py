"""For all rules: matrices in a part's flat memory, how alike two of their rows are, and knobs that may be null."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from policies.jitable import jitable
from policies.state import State

Matrix = NDArray[np.float64]


@jitable
def given(knob: float | None) -> TypeGuard[float]:
    """Whether a knob that may be null was given; a compiled decision sees NaN for null."""
    return knob is not None and not np.isnan(knob)


@jitable
def matrix_at(memory: Matrix, start: int, rows: int, columns: int) -> Matrix:
    """The cells of ``memory`` from ``start`` on as a view [rows, columns]."""
    return memory[start : start + rows * columns].reshape((rows, columns))


@jitable
def layer_row(state: State, memory: Matrix, start: int) -> Matrix:
    """The cells [E] of the current layer in a matrix [L, E] that begins at ``start``, as a view."""
    first = start + state.layer * state.num_experts
    return memory[first : first + state.num_experts]


@jitable
def dot(first: Matrix, second: Matrix) -> float:
    """Sum of products of two rows [E]: four sums side by side, because one alone waits for each addition."""
    size = first.shape[0]
    a = b = c = d = 0.0
    for i in range(0, size - 3, 4):
        a += first[i] * second[i]
        b += first[i + 1] * second[i + 1]
        c += first[i + 2] * second[i + 2]
        d += first[i + 3] * second[i + 3]
    for i in range(size - size % 4, size):
        a += first[i] * second[i]
    return (a + b) + (c + d)


@jitable
def cosine_of(product: float, first_square: float, second_square: float) -> float:
    """Cosine of two vectors from their product and their squared lengths; 0 where one is empty."""
    square = first_square * second_square
    return float(product / np.sqrt(square)) if square > 0.0 else 0.0
