"""Scores of all experts in a table: proved to be what the ids and weights were made of, or left out."""

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 5e-3
"""Weights and scores of a table are often printed with three digits."""
SMALLEST = 1e-30
"""A probability that was printed as 0."""
Floats = NDArray[np.float32]


def router_logits(
    scores: Floats, ids: NDArray[np.int32], weights: Floats | None, notes: list[str]
) -> tuple[Floats | None, str | None]:
    """Logits [T, L, E] whose softmax are the gate scores, and the name of the function that makes weights of them.

    `ids`, `weights` [T, L, K]. None where neither the scores, nor as probabilities their logarithms, explain the
    weights (without weights: where they do not say which they are, or other experts have higher ones).
    """
    candidates = [("as logits", scores)]
    sums = scores.sum(-1)
    if scores.min() >= 0 and scores.max() <= 1 + TOLERANCE:
        distributed = bool((np.abs(sums - 1) < TOLERANCE * max(1, scores.shape[-1] / 8)).all())
        if distributed:
            candidates.insert(0, ("as probabilities, whose logarithms are kept", np.log(np.maximum(scores, SMALLEST))))
        else:
            odds = np.clip(scores, SMALLEST, 1 - 1e-7)
            candidates.insert(0, ("as sigmoids, whose logits are kept", np.log(odds / (1 - odds))))
    if weights is None:
        if not _lead(scores, ids):
            notes.append("Scores are left out: they are not highest for the chosen experts, and no weights prove them.")
            return None, None
        if len(candidates) > 1 and "sigmoids" in candidates[0][0]:
            notes.append("Scores are left out: they may be logits or sigmoids, and no weights tell which.")
            return None, None
        notes.append(f"Scores are read {candidates[0][0]}; no weights prove it.")
        return candidates[0][1], None
    for word, logits in candidates:
        name = _explains(logits, ids, weights)
        if name is not None:
            notes.append(f"Scores are read {word}: the weights are their {name}.")
            return logits, name
    notes.append("Scores are left out: no known function of them gives the weights.")
    return None, None


def _lead(scores: Floats, ids: NDArray[np.int32]) -> bool:
    """Whether the chosen experts are those of the highest scores."""
    chosen = np.take_along_axis(scores, np.maximum(ids, 0), -1)
    least = np.where(ids >= 0, chosen, np.inf).min(-1)
    return bool(((scores > least[..., None] + TOLERANCE).sum(-1) < (ids >= 0).sum(-1)).all())


def _explains(logits: Floats, ids: NDArray[np.int32], weights: Floats) -> str | None:
    """softmax, softmax_topk (renormalised over the chosen), sigmoid or sigmoid_topk, times a constant."""
    real = ids >= 0
    some = real.any(-1)
    total = weights.sum(-1)
    if not (total[some] > 0).all():
        return None
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-logits))
    for name, shares in (("softmax", softmax), ("sigmoid", sigmoid)):
        chosen = np.where(real, np.take_along_axis(shares, np.maximum(ids, 0), -1), 0)
        sums = chosen.sum(-1)
        if not (sums[some] > 0).all():
            continue
        apart = np.abs(weights / np.where(some, total, 1)[..., None] - chosen / np.where(some, sums, 1)[..., None])
        if apart.max() > TOLERANCE:
            continue
        ratio = (total / np.where(some, sums, 1))[some]
        if np.ptp(ratio) <= 4 * TOLERANCE * ratio.mean():
            return name
        if np.ptp(total[some]) <= 4 * TOLERANCE * total[some].mean():
            return f"{name}_topk"
    return None
