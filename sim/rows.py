"""Reads what a step needs from a memory-mapped trace, a block of rows at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.trace import Trace

if TYPE_CHECKING:
    from sim.predictors.forecast import Forecaster

BLOCK_ROWS = 256


@dataclass(frozen=True, slots=True)
class StepData:
    """Router output of the B rows of a step; what is not wanted has no rows."""

    ids: NDArray[np.int32]  # [B, L, K]
    weights: NDArray[np.float32]  # [B, L, K]
    scores: NDArray[np.float32]  # [B, L, E]
    lookahead: NDArray[np.float32]  # [B, L-1, E]
    next_use: NDArray[np.int64]  # [B, L, K]

    def arguments(self) -> tuple[NDArray[Any], ...]:
        return (self.ids, self.weights, self.scores, self.lookahead, self.next_use)


def ranked(data: StepData) -> StepData:
    """The same step with each token's experts best first by score, else by weight, else as stored."""
    if data.scores.size:
        merit = np.take_along_axis(data.scores, data.ids.astype(np.int64), axis=-1)
    elif data.weights.size:
        merit = data.weights
    else:
        return data
    order = np.argsort(-merit, axis=-1, kind="stable")  # [B, L, K]

    def sort(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.take_along_axis(array, order, -1)) if array.size else array

    return replace(data, ids=sort(data.ids), weights=sort(data.weights), next_use=sort(data.next_use))


class RowReader:
    """Gathers rows of a trace as engine arrays, converting scores block by block so that memory stays flat."""

    def __init__(
        self,
        trace: Trace,
        scores: bool,
        lookahead: str | None,
        next_use: NDArray[np.int64] | None,
        forecaster: Forecaster | None = None,
    ) -> None:
        self.forecaster = forecaster
        self.trace, self.wants_scores, self.variant, self.future = trace, scores, lookahead, next_use
        self.blocks: OrderedDict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = OrderedDict()
        self.nothing = np.empty((0, 0, 0), np.float32)

    def read(self, rows: NDArray[np.int64]) -> StepData:
        """The data of ``rows`` [B] of the trace."""
        trace = self.trace
        ids = np.ascontiguousarray(trace.topk_ids[rows], dtype=np.int32)
        weights = self.nothing
        if trace.topk_weights is not None:
            weights = np.ascontiguousarray(trace.topk_weights[rows], dtype=np.float32)
        scores, lookahead = self._scores(rows)
        if self.forecaster is not None:
            lookahead = np.ascontiguousarray(self.forecaster.read(rows)[:, :-1, 0])
        future = np.empty((0, 0, 0), np.int64) if self.future is None else np.ascontiguousarray(self.future[rows])
        data = StepData(ids, weights, scores, lookahead, future)
        return data if trace.ranked else ranked(data)

    def _scores(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if not self.wants_scores and self.variant is None:
            return self.nothing, self.nothing
        block_ids, offsets = rows // BLOCK_ROWS, rows % BLOCK_ROWS
        if block_ids[0] == block_ids[-1]:
            scores, lookahead = self._block(int(block_ids[0]))
            return self._take(scores, offsets), self._take(lookahead, offsets)
        pieces = [
            tuple(part[offset : offset + 1] for part in self._block(int(block)))
            for block, offset in zip(block_ids, offsets, strict=True)
        ]
        first, second = zip(*pieces, strict=True)
        return np.concatenate(first), np.concatenate(second)

    @staticmethod
    def _take(block: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        return block if block.shape[0] == 0 else np.ascontiguousarray(block[offsets])

    def _block(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if index in self.blocks:
            self.blocks.move_to_end(index)
            return self.blocks[index]
        start, stop = index * BLOCK_ROWS, min((index + 1) * BLOCK_ROWS, self.trace.num_tokens)
        scores = self.trace.gate_scores(start, stop) if self.wants_scores else self.nothing
        lookahead = self.nothing
        if self.variant is not None:
            table = getattr(self.trace, self.variant)
            lookahead = table.probabilities(start, stop, self.trace.num_experts)
        self.blocks[index] = (scores, lookahead)
        if len(self.blocks) > 64:
            self.blocks.popitem(last=False)
        return self.blocks[index]
