"""Proves of recorded numbers how a router makes its choice and its weights of its scores, or that these are no logits.

A router's module returns what it likes, and so does a table of others: logits, probabilities, log-probabilities, or
nothing of use. What is kept as router logits must give the weights by one of the functions named here; else nothing is
known of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

FLOAT32_TOLERANCE = 1e-3
PRINTED_TOLERANCE = 2e-2
"""Weights and scores of a table are often printed with three digits."""
LOGITS, PROBABILITIES, SIGMOIDS = "logits", "probabilities", "sigmoid probabilities"
"""Forms in which a router returns its scores: log-probabilities are logits like any others."""
SCORES = ("softmax", "sigmoid", "sqrtsoftplus")
SPARSEMIXER = "sparsemixer"
TINY = 1e-30
CHUNK = 1 << 21
"""Numbers that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How weights come from logits; `residual`: largest error of a weight, relative to the largest of its token.

    `function`, with s the "softmax" over all experts, the "sigmoid" or "sqrtsoftplus" = sqrt(log(1 + exp)) of the
    logits: NAME: w = scale * s. NAME_topk: w = scale * s / (sum of s over the chosen). NAME_topk_scaled, NAME_scaled:
    times a constant of each expert that the router holds. NAME_shared: a token's weights are proportional to s, as
    where they are normalised together with shared experts. "sparsemixer": softmax over the logits near the highest.
    `shows`: False where equal scores of all experts would do as well, as for one renormalised expert.
    """

    function: str
    scale: float | None
    residual: float
    shows: bool = True


def name_score_function(
    topk_ids: NDArray[np.int64],
    topk_weights: NDArray[np.float32],
    logits: NDArray[np.float32] | None,
    tolerance: float = FLOAT32_TOLERANCE,
    expert_scale: NDArray[np.float32] | None = None,
    jitter: float | None = None,
) -> Explanation | None:
    """The function that gives the weights of the logits within `tolerance`; None where none of them does.

    `topk_ids`, `topk_weights` [T, L, K], negative ids where a token has no expert; `logits` [T, L, E]; `expert_scale`
    [L, E], which the router holds; `jitter`: the width of the sparse mixer, where the router has one.
    """
    if logits is None or not np.isfinite(logits).all() or not np.isfinite(topk_weights).all():
        return None
    used = (topk_ids >= 0) & (topk_weights != 0)
    if not used.any():
        return None
    ids, weights = np.where(used, topk_ids, 0), np.where(used, topk_weights, 0).astype(np.float64)
    found = [one for one in _explanations(ids, weights, used, logits, expert_scale, jitter) if one.residual < tolerance]
    if not found:
        return None
    # What fits as well as the best, in the order in which they are tried: from the narrowest to the widest.
    best = min(one.residual for one in found)
    first = next(one for one in found if one.residual <= max(2 * best, FLOAT32_TOLERANCE / 100))
    equal = used.astype(np.float64)
    flat = min(_constant("", weights, equal, used).residual, _renormalised("", weights, equal).residual)
    return replace(first, shows=flat >= tolerance)


def are_best(ids: NDArray[np.int64], scores: NDArray[np.float32]) -> bool:
    """Whether the chosen experts are everywhere those of the highest scores; negative ids choose none."""
    there = ids >= 0
    chosen = np.where(there, np.take_along_axis(scores, np.where(there, ids, 0), axis=-1), np.inf).min(axis=-1)
    others = scores.copy()
    for rank in range(ids.shape[-1]):
        column = ids[..., rank : rank + 1]
        kept = np.take_along_axis(others, np.maximum(column, 0), axis=-1)
        np.put_along_axis(others, np.maximum(column, 0), np.where(column >= 0, -np.inf, kept), axis=-1)
    return bool((chosen >= others.max(axis=-1)).all())


def forms_of(scores: NDArray[np.float32], rounded: float = 0.0) -> tuple[str, ...]:
    """The forms that scores [..., E] of a router can have, by their own values, `rounded` by at most so much each."""
    if not np.isfinite(scores).all() or float(scores.min()) < 0 or float(scores.max()) > 1 + 1e-3:
        return (LOGITS,)
    if bool((np.abs(scores.sum(axis=-1) - 1) < 1e-2 + rounded * scores.shape[-1]).all()):
        return (PROBABILITIES,)
    return (LOGITS, SIGMOIDS)


def to_logits(scores: NDArray[np.float32], form: str) -> NDArray[np.float32]:
    """Logits, up to a constant of each token, of scores in one of the forms."""
    if form == LOGITS:
        return scores
    safe = np.clip(scores.astype(np.float64), TINY, 1.0)
    logits = np.log(safe) - (np.log(np.clip(1.0 - safe, 1e-12, 1.0)) if form == SIGMOIDS else 0.0)
    return logits.astype(np.float32)


def _explanations(
    ids: NDArray[np.int64],
    weights: NDArray[np.float64],
    used: NDArray[np.bool_],
    logits: NDArray[np.float32],
    expert_scale: NDArray[np.float32] | None,
    jitter: float | None,
) -> Iterator[Explanation]:
    several = used.sum(axis=-1) > 1
    chosen = {name: np.where(used, _chosen(partial(_scores, name), ids, logits), 0.0) for name in SCORES}
    for name in SCORES:
        yield _constant(name, weights, chosen[name], used)
        yield _renormalised(f"{name}_topk", weights, chosen[name])
    if jitter is not None:
        mixed = np.where(used, _chosen(partial(_sparsemixer, jitter), ids, logits, whole=True), 0.0)
        yield Explanation(SPARSEMIXER, None, _residual(weights, mixed))
    if expert_scale is not None:
        factors = np.take_along_axis(np.broadcast_to(expert_scale, logits.shape), ids, axis=-1)
        plain = np.divide(weights, factors, out=np.zeros_like(weights), where=factors != 0)
        for name in SCORES:
            yield _constant(f"{name}_scaled", plain, chosen[name], used)
            yield _renormalised(f"{name}_topk_scaled", plain, chosen[name])
    if several.any():
        for name in SCORES:
            ratio = weights.sum(-1, keepdims=True) / np.maximum(chosen[name].sum(-1, keepdims=True), TINY)
            fit = np.where(several[..., None], ratio * chosen[name], weights)
            yield Explanation(f"{name}_shared", None, _residual(weights, fit))


def _chosen(
    score: Callable[..., NDArray[np.float64]],
    ids: NDArray[np.int64],
    logits: NDArray[np.float32],
    whole: bool = False,
) -> NDArray[np.float64]:
    """Scores of the chosen experts [T, L, K], some rows at a time; `whole`: the function takes the ids itself."""
    rows = max(1, CHUNK * len(logits) // max(1, logits.size))
    parts = []
    for start in range(0, len(logits), rows):
        some, wide = ids[start : start + rows], logits[start : start + rows].astype(np.float64)
        parts.append(score(some, wide) if whole else np.take_along_axis(score(wide), some, axis=-1))
    return np.concatenate(parts)


def _scores(name: str, wide: NDArray[np.float64]) -> NDArray[np.float64]:
    if name == "softmax":
        return np.asarray(softmax(wide, axis=-1))
    return np.asarray(expit(wide)) if name == "sigmoid" else np.sqrt(np.logaddexp(0.0, wide))


def _constant(
    name: str, weights: NDArray[np.float64], chosen: NDArray[np.float64], used: NDArray[np.bool_]
) -> Explanation:
    """w = c * s, the same c for all."""
    scale = float(weights[used].sum() / max(float(chosen[used].sum()), TINY))
    return Explanation(name, _named_scale(scale), _residual(weights, scale * chosen))


def _renormalised(name: str, weights: NDArray[np.float64], chosen: NDArray[np.float64]) -> Explanation:
    """w = c * s / (sum of s over the chosen), the same c for all."""
    there = weights.sum(axis=-1) != 0
    scale = float(weights.sum(axis=-1)[there].mean())
    fit = scale * chosen / np.maximum(chosen.sum(axis=-1, keepdims=True), TINY)
    return Explanation(name, _named_scale(scale), _residual(weights, fit))


def _sparsemixer(jitter: float, ids: NDArray[np.int64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each chosen expert's share of the softmax over what is left and lies within 2 * jitter of its highest logit.

    Source: Liu et al., Sparse Backpropagation for MoE Training, https://arxiv.org/abs/2310.00811, as in Phi-3.5-MoE.
    """
    chosen = np.take_along_axis(logits, ids, axis=-1)
    order = np.argsort(-chosen, axis=-1, kind="stable")
    left = logits.copy()
    weights = np.zeros_like(chosen)
    for rank in range(ids.shape[-1]):
        place = order[..., rank : rank + 1]
        expert = np.take_along_axis(ids, place, axis=-1)
        peak = left.max(axis=-1, keepdims=True)
        far = (peak - logits) / np.maximum(np.abs(logits), peak) > 2 * jitter
        shares = softmax(np.where(far, -np.inf, left), axis=-1)
        np.put_along_axis(weights, place, np.take_along_axis(shares, expert, axis=-1), axis=-1)
        np.put_along_axis(left, expert, -np.inf, axis=-1)
    return weights


def _residual(weights: NDArray[np.float64], fit: NDArray[np.float64]) -> float:
    largest = np.abs(weights).max(axis=-1)
    there = largest > 0
    return float((np.abs(weights - fit).max(axis=-1)[there] / largest[there]).max())


def _named_scale(scale: float) -> float | None:
    return None if abs(scale - 1.0) <= 5e-3 else round(scale, 4)
