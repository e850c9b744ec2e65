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

    def __len__(self) -> int:
        return self.phase.size


@njit(cache=True)
def fill_steps(
    cursor: Times, offsets: Times, decode_start: Times, context: Times, batch_size: int, chunk: int, rows: Times,
    requests: Times, bounds: Times, group: Times, phase: NDArray[np.uint8], kv_tokens: Times, pairs: Times,
) -> int:  # fmt: skip
    """Emit steps from the cursor on until the arrays are full -> their number.

    cursor [4]: first request of the batch; prefilling request, offset in its prompt; decode iteration. context [R]:
    position of a request's first decode row minus that row's index.
    """
    batch, prefilling, offset, iteration = cursor[0], cursor[1], cursor[2], cursor[3]
    size, steps, total = 0, 0, offsets.shape[0] - 1
    while batch < total and steps < phase.shape[0]:
        last = min(batch + batch_size, total)
        if prefilling < last:
            request = prefilling
            start = offsets[request] + offset
            stop = min(start + chunk, decode_start[request])
            if start >= decode_start[request]:
                prefilling, offset = request + 1, 0
                continue
            if size + stop - start > rows.shape[0]:
                break
            sum_pairs = 0
            for row in range(start, stop):
                rows[size], requests[size] = row, request
                sum_pairs += row - offsets[request] + 1
                size += 1
            kv, kind = stop - offsets[request], PREFILL
            offset += stop - start
        else:
            alive = 0
            for request in range(batch, last):
                alive += decode_start[request] + iteration < offsets[request + 1]
            if alive == 0:
                batch = prefilling = last
                offset = iteration = 0
                continue
            if size + alive > rows.shape[0]:
                break
            sum_pairs = 0
            for request in range(batch, last):
                row = decode_start[request] + iteration
                if row < offsets[request + 1]:
                    rows[size], requests[size] = row, request
                    sum_pairs += row + context[request] + 1
                    size += 1
            kv, kind = sum_pairs, DECODE
            iteration += 1
        group[steps], phase[steps] = batch // batch_size, kind
        kv_tokens[steps], pairs[steps] = kv, sum_pairs
        steps += 1
        bounds[steps] = size
    cursor[0], cursor[1], cursor[2], cursor[3] = batch, prefilling, offset, iteration
    return steps


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps of a replay: requests in order of the trace, ``batch_size`` at a time in lockstep.

    The prompts of a batch are prefilled one after the other, each as one step, or in chunks of ``prefill_chunk``
    tokens; then its requests decode together, one token each per step; a request that ends leaves, and nothing refills
    the batch. With ``as_decode`` every recorded row counts as a decode step of its own (teacher-forced traces).
    """

    trace: Trace
    batch_size: int = 1
    as_decode: bool = False
    prefill_chunk: int | None = None

    @property
    def batch(self) -> int:
        """Requests of a lockstep batch: never more than there are, so that sums with it stay small."""
        return min(self.batch_size, self.trace.num_requests)

    def longest_prompt(self) -> int:
        """Tokens of the longest recorded prompt."""
        return int((self.decode_starts() - self.trace.request_offsets[:-1]).max(initial=0))

    def chunk(self) -> int:
        """Most tokens of a prompt that one step prefills, at least 1 and never more than the longest prompt has."""
        return max(1, min(self.prefill_chunk or BEYOND, self.longest_prompt()))

    def decode_starts(self) -> Times:
        """[R] first decode row of every request."""
        offsets = self.trace.request_offsets
        if self.as_decode:
            return np.array(offsets[:-1], np.int64)
        prompts = np.add.reduceat(self.trace.phase == PREFILL, offsets[:-1], dtype=np.int64)
        return np.asarray(offsets[:-1] + prompts, np.int64)

    def max_tokens(self) -> int:
        """Tokens of the largest step."""
        return max(self.batch, self.chunk())

    def num_steps(self) -> int:
        """Number of steps."""
        starts, offsets = self.decode_starts(), self.trace.request_offsets
        prompts, decodes = starts - offsets[:-1], offsets[1:] - starts
        longest = np.maximum.reduceat(decodes, np.arange(0, decodes.size, self.batch))
        return int(np.ceil(prompts / self.chunk()).sum()) + int(longest.sum())

    def blocks(self, max_rows: int = BLOCK_ROWS) -> Iterator[StepBlock]:
        """All steps, at most ``max_rows`` at a time, with some ``max_rows`` rows (more where one step has more)."""
        starts = self.decode_starts()
        offsets = np.asarray(self.trace.request_offsets, np.int64)
        context = np.zeros_like(starts) - offsets[:-1]
        if not self.as_decode:
            context = np.asarray(self.trace.prompt_len, np.int64) - starts
        most = max(max_rows, self.max_tokens())
        batch, chunk, cursor = self.batch, self.chunk(), np.zeros(4, np.int64)
        while cursor[0] < offsets.size - 1:
            rows, requests = np.empty(most, np.int64), np.empty(most, np.int64)
            bounds = np.zeros(max_rows + 1, np.int64)
            group, kv_tokens, pairs = (np.empty(max_rows, np.int64) for _ in range(3))
            phase = np.empty(max_rows, np.uint8)
            steps = fill_steps(
                cursor, offsets, starts, context, batch, chunk, rows, requests,
                bounds, group, phase, kv_tokens, pairs,
            )  # fmt: skip
            size = int(bounds[steps])
            if steps:
                yield StepBlock(
                    rows[:size], requests[:size], bounds[: steps + 1], group[:steps], phase[:steps],
                    kv_tokens[:steps], pairs[:steps],
                )  # fmt: skip
