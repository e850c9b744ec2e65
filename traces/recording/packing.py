"""Packs logits for a trace: rounds them to float16 without losing the order that decides, or keeps only the best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.format.trace import ScoreTable, id_dtype

FLOAT16_MAX = float(np.finfo(np.float16).max)


def fits_float16(logits: NDArray[np.float32]) -> bool:
    """Whether every finite value has a finite float16 neighbour."""
    finite = logits[np.isfinite(logits)]
    return finite.size == 0 or float(np.abs(finite).max()) < FLOAT16_MAX


def round_keeping_order(
    logits: NDArray[np.float32], best: int, chosen: NDArray[np.int64] | None = None
) -> NDArray[np.float16]:
    """Logits [..., E] as float16 such that the `best` largest of a row keep their strict order.

    `chosen` [..., K]: the K largest of each row in the order the model gave them, which decides between logits whose
    scores are equal; otherwise the lower index does.

    Rounding never swaps two numbers but can make them equal, which would move an expert into or out of the top-k or a
    score band; such a number is raised by as many float16 steps (1 in 2048) as it takes.
    """
    best = min(best, logits.shape[-1])
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :best]  # [..., best]
    if chosen is not None:
        order[..., : chosen.shape[-1]] = chosen
    rounded = logits.astype(np.float16)
    top = np.take_along_axis(rounded, order, axis=-1)
    for column in range(best - 2, -1, -1):
        above = np.nextafter(top[..., column + 1], np.float16(np.inf))
        top[..., column] = np.maximum(top[..., column], above)
    np.put_along_axis(rounded, order, top, axis=-1)
    return rounded


def pack_scores(
    logits: NDArray[np.float32], top_k: int, width: int | None, half: bool, chosen: NDArray[np.int64] | None = None
) -> ScoreTable:
    """Score table of logits [T, L, E]: dense, or the `width` best of each row with their log normaliser.

    `chosen` [T, L, K] are the K best of each row in the model's own order, if these logits decided its choice.
    """
    num_experts = logits.shape[-1]
    values: NDArray[Any] = round_keeping_order(logits, top_k + 1, chosen) if half and fits_float16(logits) else logits
    if width is None or width >= num_experts:
        return ScoreTable(values)
    order = np.argsort(-values, axis=-1, kind="stable")[..., :width]
    peak = logits.max(axis=-1, keepdims=True)
    log_normalizer = np.log(np.exp(logits - peak).sum(axis=-1, dtype=np.float64)) + peak[..., 0]
    return ScoreTable(
        np.take_along_axis(values, order, axis=-1),
        order.astype(id_dtype(num_experts)),
        log_normalizer.astype(np.float32),
    )
