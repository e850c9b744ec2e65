"""Ranks of a token that hold no expert: how a trace stores them, and how everybody who reads ids sees them.

A router may give a token fewer than K experts of a layer, or none: zero-compute and identity experts (LongCat-Flash),
skip classes, dropped tokens, adaptive k. What has no weights is no expert of the trace. In a trace that says so
(`Trace.fewer`) the ranks left over stand last; they hold the largest number of the ids' dtype, and weight 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError

ABSENT_ID = -1
"""What `signed_ids` gives for a rank without an expert."""


def stored_absent(dtype: Any) -> int:
    """The id that a rank without an expert is stored as: the largest number of the dtype of the ids."""
    return int(np.iinfo(dtype).max)


def signed_ids(ids: NDArray[Any], fewer: bool, dtype: Any = np.int32) -> NDArray[Any]:
    """Stored ids [..., K] as signed numbers of `dtype`, `ABSENT_ID` at ranks without an expert.

    `fewer`: whether the trace that they are of may have such ranks.
    """
    signed = ids.astype(dtype)
    if fewer:
        signed[ids == stored_absent(ids.dtype)] = ABSENT_ID
    return signed


def stored_ids(ids: NDArray[Any], num_experts: int) -> NDArray[Any]:
    """Signed ids [..., K] with negative ones at ranks without an expert, as a trace with `fewer` stores them."""
    dtype = np.uint8 if num_experts <= 255 else np.uint16
    return np.where(ids < 0, stored_absent(dtype), ids).astype(dtype)


def use_counts(ids: NDArray[Any], fewer: bool, num_experts: int) -> NDArray[np.int64]:
    """How often each expert of each layer stands among the ids [n, L, K], [L, E]."""
    layers = ids.shape[1]
    cells = ids.astype(np.int64) + np.arange(layers)[:, None] * num_experts
    listed = cells[ids != stored_absent(ids.dtype)] if fewer else cells
    return np.bincount(listed.ravel(), minlength=layers * num_experts).reshape(layers, num_experts).astype(np.int64)


def refuse_fewer(fewer: bool, what: str) -> None:
    """Raises UserError where tokens may use fewer than K experts and `what` cannot express it."""
    if fewer:
        raise UserError(
            f"{what}: tokens of this trace may use fewer experts of a layer than its top_k, which this cannot express; "
            "the trace must have all of them for every token"
        )
