"""How often a predictor is right, beside predictors that need no training.

A prediction is the k best scores of a token in a layer, k being what the router uses; or, for precision and recall at
one half, every score above 0.5. The published macro-F1 averages the F1 of the chosen and of the many not chosen
experts, of which the second is easy: both that and the F1 of the chosen alone, averaged over experts, are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.predictors.inputs import UNKNOWN, RowSource, many_hot
from traces.format.trace import DECODE

Scores = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Rows [n] -> scores [n, L, E] of the experts of each layer."""
CHUNK_ROWS = 512
NAMES = (
    "recall_at_k",
    "macro_f1_positive",
    "macro_f1_published",
    "accuracy_published",
    "precision_at_half",
    "recall_at_half",
)


@dataclass(slots=True)
class Tally:
    """Counts by layer and expert, [L, E] each; only the layers in ``layers`` count."""

    layers: NDArray[np.bool_]
    hits: NDArray[np.int64]
    chosen: NDArray[np.int64]
    wanted: NDArray[np.int64]
    hits_at_half: int = 0
    chosen_at_half: int = 0
    rows: int = 0

    @staticmethod
    def empty(layers: NDArray[np.bool_], num_experts: int) -> Tally:
        zeros = np.zeros((layers.size, num_experts), np.int64)
        return Tally(layers, zeros, zeros.copy(), zeros.copy())

    def add(self, scores: NDArray[np.float32], wanted: NDArray[np.bool_], top_k: int) -> None:
        """Count predictions [n, L, E] against what the router chose [n, L, E]."""
        best = np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]
        chosen = many_hot(best, scores.shape[-1]) & self.layers[:, None]
        wanted = wanted & self.layers[:, None]
        likely = (scores > 0.5) & self.layers[:, None]
        self.hits += (chosen & wanted).sum(axis=0)
        self.chosen += chosen.sum(axis=0)
        self.wanted += wanted.sum(axis=0)
        self.hits_at_half += int((likely & wanted).sum())
        self.chosen_at_half += int(likely.sum())
        self.rows += len(scores)

    def metrics(self) -> dict[str, float | None]:
        """``NAMES`` as fractions; None where there is nothing to divide by."""
        hits, chosen, wanted = (int(counts.sum()) for counts in (self.hits, self.chosen, self.wanted))
        labels = self.rows * int(self.layers.sum()) * self.hits.shape[1]
        right_no = labels - chosen - wanted + hits
        occurs = self.chosen + self.wanted > 0
        by_expert = 2 * self.hits[occurs] / (self.chosen + self.wanted)[occurs]
        positive, negative = _ratio(2 * hits, chosen + wanted), _ratio(2 * right_no, 2 * labels - chosen - wanted)
        both = None if positive is None or negative is None else (positive + negative) / 2
        values = (
            _ratio(hits, wanted),
            float(by_expert.mean()) if by_expert.size else None,
            both,
            _ratio(hits + right_no, labels),
            _ratio(self.hits_at_half, self.chosen_at_half),
            _ratio(self.hits_at_half, wanted),
        )
        return dict(zip(NAMES, values, strict=True))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def measure(
    scores: Scores, source: RowSource, requests: tuple[int, ...], layers: NDArray[np.bool_]
) -> dict[str, dict[str, float | None]]:
    """Metrics of ``scores`` over the given layers of ``requests``, for 'all' rows and for those of 'decode'."""
    trace = source.trace
    tallies = {name: Tally.empty(layers, trace.num_experts) for name in ("all", "decode")}
    for start, stop in source.pieces(requests, CHUNK_ROWS):
        predicted, wanted = scores(np.arange(start, stop)), source.targets(start, stop)
        decode = trace.phase[start:stop] == DECODE
        tallies["all"].add(predicted, wanted, trace.top_k)
        tallies["decode"].add(predicted[decode], wanted[decode], trace.top_k)
    return {name: tally.metrics() for name, tally in tallies.items()}


def popularity(source: RowSource, requests: tuple[int, ...]) -> NDArray[np.float32]:
    """[L, E] share of the rows of ``requests`` that use the expert."""
    counts = np.zeros((source.trace.num_layers, source.trace.num_experts), np.int64)
    rows = 0
    for start, stop in source.pieces(requests, CHUNK_ROWS):
        counts += source.targets(start, stop).sum(axis=0)
        rows += stop - start
    return (counts / max(rows, 1)).astype(np.float32)


def popular_scores(shares: NDArray[np.float32]) -> Scores:
    """Every token uses what is used most."""
    return lambda rows: np.broadcast_to(shares, (rows.size, *shares.shape))


def previous_scores(source: RowSource, shares: NDArray[np.float32]) -> Scores:
    """Every token uses what the token before used, where that is known; ties, and the unknown, by popularity."""

    def scores(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        before = source.previous(int(rows[0]), int(rows[-1]) + 1)
        assert ((before >= UNKNOWN) & (before < source.trace.num_experts)).all()
        return many_hot(before, source.trace.num_experts) + shares

    return scores
