"""Turns a trace into steps: which rows one forward pass serves, and how much context it attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from policies.state import DECODE, PREFILL
from traces.format.trace import Trace

BLOCK_ROWS = 4096
BEYOND = 2**62
"""More than any prompt has tokens."""
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepBlock:
    """S consecutive steps with N rows: step i owns ``rows[bounds[i]:bounds[i + 1]]``."""

    rows: Times
    """[N] rows of the trace, in order of request inside a step."""
    requests: Times
    """[N] request of each row."""
    bounds: Times
    """[S + 1]"""
    group: Times
    """[S] index of the lockstep batch."""
    phase: NDArray[np.uint8]
    """[S] PREFILL or DECODE."""
    kv_tokens: Times
    """[S] cached tokens whose keys and values are read."""
    attended_pairs: Times
    """[S] (query, key) pairs computed."""
    pause_ns: Times
    """[S] how long the device is idle before the step: a user thinks."""

    def __len__(self) -> int:
        return self.phase.size


@njit(cache=True)
def fill_steps(
    cursor: Times, at: Times, offsets: Times, row_phase: NDArray[np.uint8], context: Times, batch_size: int, chunk: int,
    rows: Times, requests: Times, bounds: Times, group: Times, phase: NDArray[np.uint8], kv_tokens: Times, pairs: Times,
) -> int:  # fmt: skip
    """Emit steps from the cursor on until the arrays are full -> their number.

    cursor [1]: first request of the batch. at [R]: each request's next row. row_phase [T]. context [R]: position of a
    request's rows minus their index.
    """
    batch = cursor[0]
    size, steps, total = 0, 0, offsets.shape[0] - 1
    while batch < total and steps < phase.shape[0]:
        last = min(batch + batch_size, total)
        alive, prefilling = 0, -1
        for request in range(batch, last):
            if at[request] < offsets[request + 1]:
                alive += 1
                if prefilling < 0 and row_phase[at[request]] == PREFILL:
                    prefilling = request
        if alive == 0:
            batch = last
            continue
        sum_pairs = 0
        if prefilling >= 0:
            start = at[prefilling]
            stop, end = start + 1, min(start + chunk, offsets[prefilling + 1])
            while stop < end and row_phase[stop] == PREFILL:
                stop += 1
            if size + stop - start > rows.shape[0]:
                break
            for row in range(start, stop):
                rows[size], requests[size] = row, prefilling
                sum_pairs += row + context[prefilling] + 1
                size += 1
            kv, kind = stop + context[prefilling], PREFILL
            at[prefilling] = stop
        else:
            if size + alive > rows.shape[0]:
                break
            for request in range(batch, last):
                row = at[request]
                if row < offsets[request + 1]:
                    rows[size], requests[size] = row, request
                    sum_pairs += row + context[request] + 1
                    size += 1
                    at[request] = row + 1
            kv, kind = sum_pairs, DECODE
        group[steps], phase[steps] = batch // batch_size, kind
        kv_tokens[steps], pairs[steps] = kv, sum_pairs
        steps += 1
        bounds[steps] = size
    cursor[0] = batch
    return steps


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps of a replay: requests in order of the trace, ``batch_size`` at a time in lockstep.

    The prompts of a batch are prefilled one after the other, each as one step, or in chunks of ``prefill_chunk``
    tokens; then its requests decode together, one token each per step, and wait while one of them prefills a later
    turn; a request that ends leaves, and nothing refills the batch. With ``as_decode`` every recorded row counts as a
    decode step of its own (teacher-forced traces).
    """

    trace: Trace
    batch_size: int = 1
    as_decode: bool = False
    prefill_chunk: int | None = None
    think_ns: int = 0
    """Pause before every turn of a chat but its first."""

    @property
    def batch(self) -> int:
        """Requests of a lockstep batch: never more than there are, so that sums with it stay small."""
        return min(self.batch_size, self.trace.num_requests)

    def longest_prompt(self) -> int:
        """Tokens of the longest stretch of prefill in a request."""
        return int(self._prompts()[0].max(initial=0))

    def chunk(self) -> int:
        """Most tokens of a prompt that one step prefills, at least 1 and never more than the longest prompt has."""
        return max(1, min(self.prefill_chunk or BEYOND, self.longest_prompt()))

    def row_phase(self) -> NDArray[np.uint8]:
        """[T] phase in which every row is replayed."""
        return np.full(self.trace.num_tokens, DECODE, np.uint8) if self.as_decode else self.trace.phase

    def _prompts(self) -> tuple[Times, Times]:
        """Tokens of every stretch of prefill in the trace, and the decode rows of every request."""
        phase, offsets = self.row_phase(), self.trace.request_offsets
        begins = np.ones(len(phase), bool)
        begins[1:] = phase[1:] != phase[:-1]
        begins[offsets[:-1]] = True
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=len(phase))
        decodes = np.add.reduceat(phase == DECODE, offsets[:-1], dtype=np.int64)
        return np.asarray(lengths[phase[starts] == PREFILL], np.int64), np.asarray(decodes, np.int64)

    def max_tokens(self) -> int:
        """Tokens of the largest step."""
        return max(self.batch, self.chunk())

    def num_steps(self) -> int:
        """Number of steps."""
        prompts, decodes = self._prompts()
        longest = np.maximum.reduceat(decodes, np.arange(0, decodes.size, self.batch))
        return int(np.ceil(prompts / self.chunk()).sum()) + int(longest.sum())

    def blocks(self, max_rows: int = BLOCK_ROWS) -> Iterator[StepBlock]:
        """All steps, at most ``max_rows`` at a time, with some ``max_rows`` rows (more where one step has more)."""
        offsets, phases = np.asarray(self.trace.request_offsets, np.int64), np.ascontiguousarray(self.row_phase())
        context, at = self.trace.contexts() - offsets[:-1], offsets[:-1].copy()
        if self.as_decode:
            context = np.zeros_like(context) - offsets[:-1]
        most = max(max_rows, self.max_tokens())
        batch, chunk, cursor = self.batch, self.chunk(), np.zeros(1, np.int64)
        while cursor[0] < offsets.size - 1:
            rows, requests = np.empty(most, np.int64), np.empty(most, np.int64)
            bounds = np.zeros(max_rows + 1, np.int64)
            group, kv_tokens, pairs = (np.empty(max_rows, np.int64) for _ in range(3))
            phase = np.empty(max_rows, np.uint8)
            steps = fill_steps(
                cursor, at, offsets, phases, context, batch, chunk, rows, requests,
                bounds, group, phase, kv_tokens, pairs,
            )  # fmt: skip
            size = int(bounds[steps])
            if steps:
                yield StepBlock(
                    rows[:size], requests[:size], bounds[: steps + 1], group[:steps], phase[:steps],
                    kv_tokens[:steps], pairs[:steps], self._pauses(rows, requests, bounds[:steps]),
                )  # fmt: skip

    def _pauses(self, rows: Times, requests: Times, firsts: Times) -> Times:
        """Idle time before the steps whose first rows are ``rows[firsts]``."""
        turns = self.trace.request_turns
        if turns is None or self.think_ns == 0:
            return np.zeros(firsts.size, np.int64)
        of = requests[firsts]
        begins = (rows[firsts] == self.trace.request_offsets[of]) & (turns[of, 1] > 0)
        return np.where(begins, self.think_ns, 0)
