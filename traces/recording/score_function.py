"""Finds out from recorded numbers how a model turns router logits into expert weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

TOLERANCE = 5e-3  # weights may come from a bfloat16 model


def name_score_function(
    topk_ids: NDArray[np.int64], topk_weights: NDArray[np.float32], logits: NDArray[np.float32] | None
) -> tuple[str | None, float | None]:
    """Name of the score function and the constant the weights are multiplied by (None where it is 1).

    "softmax": w = c * softmax(logits) over all experts; "softmax_topk": renormalised over the chosen, which is the same
    as a softmax over their logits; "sigmoid" and "sigmoid_topk" likewise. (None, None) where none of them explains the
    weights. All inputs [T, L, ...].
    """
    if logits is None:
        return None, None
    for name, scores in (("softmax", softmax(logits, axis=-1)), ("sigmoid", expit(logits))):
        chosen = np.take_along_axis(scores, topk_ids, axis=-1)
        total = topk_weights.sum(axis=-1)
        ratio = total / chosen.sum(axis=-1)  # [T, L]
        if float(np.abs(topk_weights - ratio[..., None] * chosen).max()) > TOLERANCE * max(1.0, float(total.max())):
            continue
        if _constant(ratio):
            return name, _scale(ratio)
        if _constant(total):
            return f"{name}_topk", _scale(total)
    return None, None


def _constant(values: NDArray[np.float32]) -> bool:
    return float(np.ptp(values)) <= TOLERANCE * float(values.mean())


def _scale(values: NDArray[np.float32]) -> float | None:
    mean = float(values.mean())
    return None if abs(mean - 1.0) <= TOLERANCE else round(mean, 4)
