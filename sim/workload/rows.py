"""Reads what a block of steps needs from a memory-mapped trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.state import DROPPED
from sim.workload.steps import BLOCK_ROWS, StepBlock
from traces.format.mapped import consecutive, gather
from traces.format.ranks import signed_ids
from traces.format.tensors import release_rows
from traces.format.trace import Trace

BLOCK_BYTES = 32_000_000
NO_ROWS = np.empty((0, 0, 0), np.float32)


class Forecaster(Protocol):
    """A trained predictor's scores for rows of a trace."""

    origin: dict[str, Any]
    """The checkpoint's name, its kind and the record of its training."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """[N, L, D, E]: scores of layer l + d + 1 as known at layer l."""


class Future(Protocol):
    """When each demand's expert is demanded next, in replay order."""

    def read(self, position: int, count: int) -> NDArray[np.int64]:
        """[count, L, K] of the rows from ``position`` of the replay on."""


@dataclass(frozen=True, slots=True)
class BlockData:
    """Router output of the N rows of a block; what is not wanted has no rows."""

    ids: NDArray[np.int32]  # [N, L, K], DROPPED at ranks without an expert
    weights: NDArray[np.float32]  # [N, L, K]
    scores: NDArray[np.float32]  # [N, L, E]
    lookahead: NDArray[np.float32]  # [N, L-1, D, E]
    next_use: NDArray[np.int64]  # [N, L, K]

    def arrays(self) -> tuple[NDArray[Any], ...]:
        return (self.ids, self.weights, self.scores, self.lookahead, self.next_use)

    def rows(self, start: int, stop: int) -> tuple[NDArray[Any], ...]:
        """The arrays of some rows; those without rows stay so."""
        return tuple(array[start:stop] if array.shape[0] else array for array in self.arrays())


def ranked(data: BlockData) -> BlockData:
    """The same rows with each token's experts best first by score, else by weight, else as stored."""
    if data.scores.size:
        priority = np.take_along_axis(data.scores, np.maximum(data.ids, 0).astype(np.int64), axis=-1)
    elif data.weights.size:
        priority = data.weights
    else:
        return data
    priority = np.where(data.ids == DROPPED, -np.inf, priority)  # they stay behind the others
    order = np.argsort(-priority, axis=-1, kind="stable")  # [N, L, K]

    def sort(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.take_along_axis(array, order, -1)) if array.size else array

    return replace(data, ids=sort(data.ids), weights=sort(data.weights), next_use=sort(data.next_use))


@dataclass(slots=True)
class RowReader:
    """Gathers the rows of blocks as engine arrays; ``position`` counts the rows read, in replay order."""

    trace: Trace
    wants_weights: bool
    wants_scores: bool
    lookahead: tuple[str, ...]
    """Score tables of the trace for 1, 2, ... layers ahead."""
    forecaster: Forecaster | None = None
    future: Future | None = None
    position: int = 0
    shared: dict[str, NDArray[Any]] | None = None
    """What readers of the same block have read of it, where several go through the trace together."""

    def block_rows(self) -> int:
        """Rows that fit a block of bounded memory."""
        trace = self.trace
        floats = trace.num_experts * (self.wants_scores + (3 if self.forecaster else len(self.lookahead)))
        per_row = 4 * trace.num_layers * (floats + 4 * trace.top_k)
        return max(1, min(BLOCK_ROWS, BLOCK_BYTES // per_row))

    def read(self, block: StepBlock) -> BlockData:
        """What a block of steps needs."""
        trace, rows = self.trace, block.rows
        ids = self._once("ids", lambda: self._ids(rows))
        weights, table = NO_ROWS, trace.topk_weights
        if self.wants_weights and table is not None:
            weights = self._once("weights", lambda: self._gather(table, rows, np.float32))
        next_use = np.empty((0, 0, 0), np.int64)
        if self.future is not None:
            next_use = self.future.read(self.position, rows.size)
        self.position += rows.size
        data = BlockData(ids, weights, self._scores(rows), self._lookahead(rows), next_use)
        release_rows(trace, int(rows.min()), int(rows.max()) + 1)
        return data if trace.ranked else ranked(data)

    def _once(self, name: str, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What ``read`` gives, or gave to another reader of the block."""
        if self.shared is None:
            return read()
        if name not in self.shared:
            self.shared[name] = read()
        return self.shared[name]

    def _ids(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        if not self.trace.fewer:
            return self._gather(self.trace.topk_ids, rows, np.int32)
        return np.ascontiguousarray(signed_ids(gather(self.trace.topk_ids, rows), True))

    @staticmethod
    def _gather(array: NDArray[Any], rows: NDArray[np.int64], dtype: Any) -> NDArray[Any]:
        return np.array(gather(array, rows), dtype=dtype, order="C")  # a view of an array in memory is not ours

    def _scores(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if not self.wants_scores:
            return NO_ROWS
        return self._once("scores", lambda: self._spans(rows, self.trace.gate_scores))

    def _lookahead(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.forecaster is not None:
            return np.ascontiguousarray(self.forecaster.read(rows), dtype=np.float32)
        if not self.lookahead:
            return np.empty((0, 0, 0, 0), np.float32)
        return self._once(f"ahead {self.lookahead}", lambda: self._joined_lookahead(rows))

    def _joined_lookahead(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        experts = self.trace.num_experts
        tables = [getattr(self.trace, name) for name in self.lookahead]
        depths = [self._spans(rows, lambda a, b, t=table: t.probabilities(a, b, experts)) for table in tables]
        layers = self.trace.num_layers - 1
        if len(depths) == 1 and depths[0].shape[1] == layers:
            return depths[0][:, :, None]
        joined = np.zeros((rows.size, layers, len(depths), experts), np.float32)
        for i, scores in enumerate(depths):
            joined[:, : scores.shape[1], i] = scores
        return joined

    @staticmethod
    def _spans(rows: NDArray[np.int64], read: Any) -> NDArray[np.float32]:
        """``read(start, stop)`` over the spans of consecutive rows, put together in order of ``rows``."""
        if consecutive(rows):
            return np.ascontiguousarray(read(int(rows[0]), int(rows[-1]) + 1))
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        cuts = np.flatnonzero(np.diff(ordered) != 1) + 1
        joined = np.concatenate([read(int(span[0]), int(span[-1]) + 1) for span in np.split(ordered, cuts)])
        in_order = np.empty_like(joined)
        in_order[order] = joined
        return np.ascontiguousarray(in_order)
