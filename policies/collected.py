"""Matrices [L, E] kept in a rule's flat memory, and how alike two of their rows are."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@register_jitable
def matrix_at(memory: Matrix, start: int, rows: int, columns: int) -> Matrix:
    """The cells of ``memory`` from ``start`` on as a view [rows, columns]."""
    return memory[start : start + rows * columns].reshape((rows, columns))


@register_jitable
def dot(first: Matrix, second: Matrix) -> float:
    """Sum of products of two rows [E]."""
    total = 0.0
    for i in range(first.shape[0]):
        total += first[i] * second[i]
    return total


@register_jitable
def cosine_of(product: float, first_square: float, second_square: float) -> float:
    """Cosine of two vectors from their product and their squared lengths; 0 where one is empty."""
    square = first_square * second_square
    return float(product / np.sqrt(square)) if square > 0.0 else 0.0
