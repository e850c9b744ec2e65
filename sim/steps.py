"""Turns a trace into steps: which rows one forward pass serves, and how much context it attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE, PREFILL
from traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass."""

    group: int
    """Index of the lockstep batch."""
    phase: int
    rows: NDArray[np.int64]
    """Rows of the trace, in order of request."""
    requests: NDArray[np.int64]
    """Requests served, one per row in decode, a single one in prefill."""
    kv_tokens: int
    """Cached tokens whose keys and values are read."""
    attended_pairs: int
    """(query, key) pairs computed."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps of a replay: requests in order of the trace, ``batch_size`` at a time in lockstep.

    The prompts of a batch are prefilled one after the other, each as one step; then its requests decode together, one
    token each per step; a request that ends leaves, and nothing refills the batch. With ``as_decode`` every recorded
    row counts as a decode step of its own (teacher-forced traces).
    """

    trace: Trace
    batch_size: int = 1
    as_decode: bool = False

    def prefill_rows(self, request: int) -> tuple[int, int, int]:
        """(first row, first decode row, end) of a request."""
        first, last = int(self.trace.request_offsets[request]), int(self.trace.request_offsets[request + 1])
        prefill = 0 if self.as_decode else int(np.count_nonzero(self.trace.phase[first:last] == PREFILL))
        return first, first + prefill, last

    def groups(self) -> Iterator[list[tuple[int, int, int, int]]]:
        """(request, first row, first decode row, end) of the members of each lockstep batch."""
        for start in range(0, self.trace.num_requests, self.batch_size):
            members = range(start, min(start + self.batch_size, self.trace.num_requests))
            yield [(request, *self.prefill_rows(request)) for request in members]

    def __len__(self) -> int:
        """Number of steps."""
        prompts = sum(decode > first for group in self.groups() for _, first, decode, _ in group)
        return prompts + sum(max(end - decode for _, _, decode, end in group) for group in self.groups())

    def __iter__(self) -> Iterator[Step]:
        positions = self.trace.positions()
        for index, group in enumerate(self.groups()):
            for request, first, decode, _ in group:
                if decode > first:
                    yield self._step(index, PREFILL, np.arange(first, decode), np.array([request]), positions)
            for i in range(max(end - decode for _, _, decode, end in group)):
                alive = [(request, decode + i) for request, _, decode, end in group if decode + i < end]
                requests, rows = (np.array(column, dtype=np.int64) for column in zip(*alive, strict=True))
                yield self._step(index, DECODE, rows, requests, positions)

    @staticmethod
    def _step(
        group: int, phase: int, rows: NDArray[np.int64], requests: NDArray[np.int64], positions: NDArray[np.int32]
    ) -> Step:
        context = positions[rows].astype(np.int64) + 1
        read = int(context.max()) if phase == PREFILL else int(context.sum())
        return Step(group, phase, rows, requests, read, int(context.sum()))

    def max_tokens(self) -> int:
        """Tokens of the largest step."""
        prompts = (decode - first for first, decode, _ in map(self.prefill_rows, range(self.trace.num_requests)))
        return max(min(self.batch_size, self.trace.num_requests), *prompts, 1)

    def order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows in replay order [T], bounds of the steps in them [S + 1])."""
        rows = [step.rows for step in self]
        bounds = np.concatenate([[0], np.cumsum([r.size for r in rows])]).astype(np.int64)
        return (np.concatenate(rows) if rows else np.empty(0, np.int64)), bounds
