"""What a router chose, as a trace has it: which ranks hold an expert at all, and in which order they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.format.ranks import ABSENT_ID


def stacked_choices(
    ids: Sequence[NDArray[Any]], weights: Sequence[NDArray[Any]], num_experts: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and weights [T, L, K] of layers that gave [T, K of their own] each, `ABSENT_ID` and 0 where no expert is.

    No expert of the trace is what has no weights to move: an id that is none of the `num_experts` experts (zero-compute
    and identity experts, a class that skips), or a rank whose factor is exactly 0 (skipped or dropped). An expert that
    a token gets twice stands once, with the sum of both factors.
    """
    most = max(layer.shape[-1] for layer in ids)
    shape = (len(ids[0]), len(ids), most)
    chosen = np.full(shape, ABSENT_ID, np.int64)
    factors = np.zeros(shape, np.float32)
    for layer, (some, given) in enumerate(zip(ids, weights, strict=True)):
        there = (some >= 0) & (some < num_experts) & (given != 0)
        chosen[:, layer, : some.shape[-1]] = np.where(there, some, ABSENT_ID)
        factors[:, layer, : some.shape[-1]] = np.where(there, given, 0)
    for rank in range(1, most):
        for earlier in range(rank):
            twice = (chosen[..., rank] == chosen[..., earlier]) & (chosen[..., rank] != ABSENT_ID)
            if twice.any():
                factors[..., earlier] += np.where(twice, factors[..., rank], 0)
                factors[..., rank] = np.where(twice, 0, factors[..., rank])
                chosen[..., rank] = np.where(twice, ABSENT_ID, chosen[..., rank])
    return chosen, factors


def best_first(ids: NDArray[np.int64], weights: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and weights [T, L, K] by falling weight, as a trace lists them; ranks without an expert last."""
    order = np.argsort(np.where(ids < 0, np.inf, -weights), axis=-1, kind="stable")
    return np.take_along_axis(ids, order, -1), np.take_along_axis(weights, order, -1)
