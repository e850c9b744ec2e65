"""Statistics that bound what substitution can do: the slope of the gate around rank k, and shares of the score bands.

With s an expert's gate score and S_j the j-th highest score of a token (so that S_{k+1} is the best score not chosen):
low-score active    S_{k+1} < s < (1 + alpha) S_{k+1}      top-score active    s >= (1 + alpha) S_{k+1}
candidate           (1 - alpha) S_{k+1} < s <= S_{k+1}, not active (rank k+1 itself counts)
Scores are softmax(router_logits) whatever the model's own score function is.
Source: SMoE, arXiv 2508.18983, the two bands.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.mapped import load
from traces.format.ranks import signed_ids
from traces.format.trace import Trace
from traces.score_bands import is_top, top_experts
from traces.statistics.miss_curve import stack_distances
from traces.statistics.routing import counted_rows, row_chunks

ALPHAS = (0.25, 0.30, 0.35)


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """Means over counted rows and layers; tuples have one entry per alpha.

    `gate_slope` h: mean over active experts of ln(S_j / S_{k+1}). `low_share`: low-score share of active experts.
    `candidates`: candidates per token and layer (a lower bound where the band reaches below a truncated table's floor).
    `low_share_of_misses`: low-score share of the active experts that step-LRU misses at `miss_slots` per layer.
    `below_floor`: share of (token, layer) whose candidate band reaches below the floor of a truncated table.
    """

    alphas: tuple[float, ...]
    gate_slope: float
    low_share: tuple[float, ...]
    candidates: tuple[float, ...]
    low_share_of_misses: tuple[float, ...]
    miss_slots: int
    below_floor: tuple[float, ...]


def gate_statistics(trace: Trace, alphas: tuple[float, ...] = ALPHAS) -> GateStatistics:
    """Gate slope and bands of a trace with router_logits.

    Raises: UserError if the trace has no router_logits or fewer than k+1 experts.
    """
    if trace.router_logits is None:
        raise UserError("The trace has no router_logits, so its gate slope and score bands are unknown")
    if trace.num_experts <= trace.top_k:
        raise UserError(f"top_k={trace.top_k} of {trace.num_experts} experts: there is no expert of rank k+1")
    slots = max(1, trace.num_experts // 4)
    counted = counted_rows(trace)
    sums = np.zeros(4)  # slope, active, missed, (token, layer)
    bands = np.zeros((4, len(alphas)))  # low, low missed, candidates, below the floor
    for chunk in stack_distances(trace):
        for start, stop in row_chunks(chunk.start, chunk.stop, trace.num_layers * trace.num_experts * 8):
            distances = chunk.distances[start - chunk.start : stop - chunk.start]
            _add_bands(
                trace.gate_scores(start, stop),
                trace.router_logits.floors(start, stop),
                signed_ids(load(trace.topk_ids[start:stop]), trace.fewer),
                (distances >= slots) & (distances <= trace.num_experts),
                counted[start:stop],
                np.asarray(alphas),
                sums,
                bands,
            )
    slope, active, misses, cells = sums.tolist()
    return GateStatistics(
        alphas,
        slope / active,
        tuple((bands[0] / active).tolist()),
        tuple((bands[2] / cells).tolist()),
        tuple((bands[1] / misses).tolist()) if misses else (float("nan"),) * len(alphas),
        slots,
        tuple((bands[3] / cells).tolist()),
    )


@njit(cache=True)
def _add_bands(
    scores: NDArray[np.float32],
    floors: NDArray[np.float32],
    ids: NDArray[Any],
    missed: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    alphas: NDArray[np.float64],
    sums: NDArray[np.float64],
    bands: NDArray[np.float64],
) -> None:
    """Add the counts of rows [n, L, ...] to `sums` and `bands`."""
    rows, num_layers, top_k = ids.shape
    best = np.empty(top_k + 1, np.int64)
    active = np.zeros(scores.shape[2], np.bool_)
    for row in range(rows):
        if not counted[row]:
            continue
        for layer in range(num_layers):
            score = scores[row, layer]
            top_experts(score, top_k + 1, best)
            edge = max(float(score[best[top_k]]), 1e-38)
            floor = floors[row, layer] * (1 - 1e-6)  # the last listed expert itself is known
            active[:] = False
            sums[3] += 1
            for rank in range(top_k):
                expert = ids[row, layer, rank]
                if expert < 0:
                    continue
                active[expert] = True
                chosen = max(float(score[expert]), 1e-38)
                sums[0] += np.log(chosen / edge)
                sums[1] += 1
                sums[2] += missed[row, layer, rank]
                for a in range(len(alphas)):
                    if chosen > edge and not is_top(chosen, edge, alphas[a]):
                        bands[0, a] += 1
                        bands[1, a] += missed[row, layer, rank]
            _add_candidates(score, active, edge, floor, alphas, bands)


@njit(cache=True)
def _add_candidates(
    scores: NDArray[np.float32],
    active: NDArray[np.bool_],
    edge: float,
    floor: float,
    alphas: NDArray[np.float64],
    bands: NDArray[np.float64],
) -> None:
    """Add the candidates of one token and layer, scores [E], to `bands`; those below the floor are not known."""
    for a in range(len(alphas)):
        lower = (1 - alphas[a]) * edge
        bands[3, a] += floor > lower
        for expert in range(len(scores)):
            known = scores[expert] >= floor
            bands[2, a] += known and not active[expert] and lower < scores[expert] <= edge
