"""How well the next layer's gate, applied one layer early, predicts which experts that layer uses."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import signed_ids
from traces.format.trace import ScoreTable, Trace
from traces.score_bands import is_top, top_experts
from traces.statistics.gate import ALPHAS
from traces.statistics.routing import counted_rows, row_chunks


@dataclass(frozen=True, slots=True)
class LookaheadStatistics:
    """How well the gate of layer l+1, applied at layer l, predicts layer l+1; tuples have one entry per alpha.

    `recall`: share of the k active experts that are among the k predicted ones. `top_score_recall`: share of the
    top-score active experts that are predicted to be top-score. `top_score_precision`: share of the experts predicted
    to be top-score that are active. The last two are None where the trace has no router_logits.
    """

    alphas: tuple[float, ...]
    recall: float
    top_score_recall: tuple[float, ...] | None
    top_score_precision: tuple[float, ...] | None


def lookahead_statistics(trace: Trace, table: ScoreTable, alphas: tuple[float, ...] = ALPHAS) -> LookaheadStatistics:
    """Recall of one lookahead table of `trace` over its counted rows.

    Raises: UserError if the model uses all its experts, so that there is no rank k+1.
    """
    if trace.num_experts <= trace.top_k:
        raise UserError(f"top_k={trace.top_k} of {trace.num_experts} experts: there is no expert of rank k+1")
    counted = counted_rows(trace)
    totals = np.zeros(2)  # predicted and active, active
    bands = np.zeros((4, len(alphas)))  # top-score: both, active; predicted: active, all
    for start, stop in row_chunks(0, trace.num_tokens, trace.num_layers * trace.num_experts * 16):
        predicted = table.probabilities(start, stop, trace.num_experts)  # [n, L-1, E]
        actual = predicted[:, :, :0] if trace.router_logits is None else trace.gate_scores(start, stop)[:, 1:]
        _add_recall(
            predicted,
            np.ascontiguousarray(actual),
            np.ascontiguousarray(signed_ids(load(trace.topk_ids[start:stop])[:, 1:], trace.fewer)),
            counted[start:stop],
            np.asarray(alphas),
            totals,
            bands,
        )
    recall = float(totals[0] / totals[1]) if totals[1] else float("nan")
    if trace.router_logits is None:
        return LookaheadStatistics(alphas, recall, None, None)
    with np.errstate(invalid="ignore"):
        return LookaheadStatistics(
            alphas, recall, tuple((bands[0] / bands[1]).tolist()), tuple((bands[2] / bands[3]).tolist())
        )


@njit(cache=True)
def _add_recall(
    predicted: NDArray[np.float32],
    actual: NDArray[np.float32],
    ids: NDArray[Any],
    counted: NDArray[np.bool_],
    alphas: NDArray[np.float64],
    totals: NDArray[np.float64],
    bands: NDArray[np.float64],
) -> None:
    """Add the counts of rows [n, L-1, ...] to `totals` and `bands`; `actual` is empty where it is unknown."""
    rows, num_layers, top_k = ids.shape
    guess = np.empty(top_k + 1, np.int64)
    truth = np.empty(top_k + 1, np.int64)
    active = np.zeros(predicted.shape[2], np.bool_)
    for row in range(rows):
        if not counted[row]:
            continue
        for layer in range(num_layers):
            forecast = predicted[row, layer]
            top_experts(forecast, top_k + 1, guess)
            active[:] = False
            used = 0
            for rank in range(top_k):
                if ids[row, layer, rank] >= 0:
                    active[ids[row, layer, rank]] = True
                    used += 1
            for rank in range(used):
                totals[0] += active[guess[rank]]
                totals[1] += 1
            if actual.shape[2] == 0:
                continue
            score = actual[row, layer]
            top_experts(score, top_k + 1, truth)
            for a in range(len(alphas)):
                seen_edge, true_edge = forecast[guess[top_k]], score[truth[top_k]]
                for rank in range(used):
                    expert = ids[row, layer, rank]
                    if is_top(score[expert], true_edge, alphas[a]):
                        bands[1, a] += 1
                        bands[0, a] += is_top(forecast[expert], seen_edge, alphas[a])
                    if is_top(forecast[guess[rank]], seen_edge, alphas[a]):
                        bands[3, a] += 1
                        bands[2, a] += active[guess[rank]]
