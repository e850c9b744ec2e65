"""Turns a trace into steps: which rows one forward pass serves, and how much context it attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from policies.hashing import uniform
from policies.state import DECODE, PREFILL
from sim.config import SpeculateConfig
from traces.format.trace import Trace

BLOCK_ROWS = 4096
BEYOND = 2**62
"""More than any prompt has tokens."""
Times = NDArray[np.int64]
NO_CHANGE = np.empty(0, np.int64)
NO_COUNTS = np.empty((0, 2), np.uint8)


@dataclass(frozen=True, slots=True)
class Drafted:
    """What speculation makes of S steps with N rows."""

    accepted: NDArray[np.bool_]
    """[N] whether the row stays; false: a draft that is rejected, whose row comes again in a later step."""
    passes: Times
    """[S] drafts that the request with most of them brings: how often the draft runs before the step."""
    requests: Times
    """[S] requests of the step."""

    def take(self, steps: NDArray[np.bool_], rows: NDArray[np.bool_]) -> Drafted:
        """Some of the steps, [S] bool, and their rows, [N] bool."""
        return Drafted(self.accepted[rows], self.passes[steps], self.requests[steps])


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
    drafted: Drafted | None = None
    """None in a replay without speculation."""
    pool_bytes: Times = field(default_factory=lambda: NO_CHANGE)
    """[S] bytes of every pool of experts from the step on; 0 rows: as they are at the start."""

    def pool_bytes_of(self, step: int) -> int:
        """Bytes of every pool from a step on; -1: as they are."""
        return int(self.pool_bytes[step]) if self.pool_bytes.size else -1

    def __len__(self) -> int:
        return self.phase.size

    def num_rows(self) -> Times:
        """[S] rows of each step."""
        return np.diff(self.bounds)

    def num_requests(self) -> Times:
        """[S] requests whose rows a step holds: as many as rows where it decodes without drafts, one in a prefill."""
        if self.drafted is not None:
            return self.drafted.requests
        return np.where(self.phase == DECODE, self.num_rows(), 1)

    def passes(self) -> Times:
        """[S] how often the draft runs before each step."""
        return np.zeros(len(self), np.int64) if self.drafted is None else self.drafted.passes

    def accepted(self) -> NDArray[np.bool_]:
        """[N] whether a row stays."""
        return np.ones(self.rows.size, bool) if self.drafted is None else self.drafted.accepted

    def num_tokens(self) -> Times:
        """[S] tokens by which a step brings its requests on: its rows without the drafts that are rejected."""
        if self.drafted is None:
            return self.num_rows()
        return np.add.reduceat(self.drafted.accepted, self.bounds[:-1], dtype=np.int64)


@njit(cache=True)
def count_drafts(row: int, end: int, row_phase: NDArray[np.uint8], most: int, counted: NDArray[np.uint8]) -> int:
    """Drafts of the step that begins with a decode row: at most as many as rows of its stretch follow it."""
    if counted.shape[0] > 0:
        most = min(most, int(counted[row, 0]))
    drafts = 0
    while drafts < most and row + drafts + 1 < end and row_phase[row + drafts + 1] == DECODE:
        drafts += 1
    return drafts


@njit(cache=True)
def fill_steps(
    cursor: Times, at: Times, offsets: Times, row_phase: NDArray[np.uint8], context: Times, batch_size: int, chunk: int,
    rows: Times, requests: Times, bounds: Times, group: Times, phase: NDArray[np.uint8], kv_tokens: Times, pairs: Times,
    chances: NDArray[np.float64], counted: NDArray[np.uint8], others: bool, seed: int, numbers: Times,
    accepted: NDArray[np.bool_], passes: Times, in_step: Times,
) -> int:  # fmt: skip
    """Emit steps from the cursor on until the arrays are full -> their number.

    cursor [1]: first request of the batch. at [R]: each request's next row. row_phase [T]. context [R]: position of a
    request's rows minus their index. chances [D]: of D drafts each, to be accepted
    once all before it were, drawn as a hash of seed, number [R] of the request and place of the row in it; counted
    [T, 2]: drafts that a step has in place of D, and of them those that are accepted; no rows: drawn. Rejected
    drafts count in kv_tokens and pairs; with ``others`` their rows are drawn from all of the request.
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
                rows[size], requests[size], accepted[size] = row, prefilling, True
                sum_pairs += row + context[prefilling] + 1
                size += 1
            kv, kind = stop + context[prefilling], PREFILL
            at[prefilling] = stop
            passes[steps], in_step[steps] = 0, 1
        else:
            if size + alive * (1 + chances.shape[0]) > rows.shape[0]:
                break
            kv, kind, most = 0, DECODE, 0
            for request in range(batch, last):
                row, end = at[request], offsets[request + 1]
                if row >= end:
                    continue
                drafts, taken = count_drafts(row, end, row_phase, chances.shape[0], counted), 1
                place = row - offsets[request]
                if counted.shape[0] > 0:
                    taken += min(drafts, int(counted[row, 1]))
                else:
                    while taken <= drafts and uniform(seed, numbers[request], place + taken, 0) < chances[taken - 1]:
                        taken += 1
                for ahead in range(drafts + 1):
                    rows[size], requests[size], accepted[size] = row + ahead, request, ahead < taken
                    if others and ahead >= taken:
                        drawn = uniform(seed, numbers[request], place + taken, ahead)
                        rows[size] = offsets[request] + int(drawn * (end - offsets[request]))
                    sum_pairs += row + ahead + context[request] + 1
                    size += 1
                kv += row + drafts + context[request] + 1
                most = max(most, drafts)
                at[request] = row + taken
            passes[steps], in_step[steps] = most, alive
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

    With ``speculate`` a decode step holds of each request its next row and the D rows behind it, as drafts, fewer at
    the end of a stretch of decoding. The drafts ahead of the first rejected one are accepted: the request goes on
    behind them; with ``speculate.acceptance=recorded`` the trace says how many there are and stay. A rejected draft is
    another token than that of the recorded text, whose routing no trace holds: that of the recorded token stands in for
    it, or that of another token of the request (``speculate.rejected``).
    """

    trace: Trace
    batch_size: int = 1
    as_decode: bool = False
    prefill_chunk: int | None = None
    think_ns: int = 0
    """Pause before every turn of a chat but its first."""
    speculate: SpeculateConfig = field(default_factory=SpeculateConfig)
    seed: int = 0
    """Of the draws that accept drafts."""

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

    def contexts(self) -> Times:
        """[R] position of a request's rows in its context minus their index."""
        unrecorded = 0 if self.as_decode else self.trace.contexts()
        return np.asarray(unrecorded - self.trace.request_offsets[:-1], np.int64)

    def counted_drafts(self) -> NDArray[np.uint8]:
        """[T, 2] drafts and accepted ones of the step that begins with each row; no rows where chances decide."""
        counts = self.trace.draft_counts
        return NO_COUNTS if counts is None or not self.speculate.recorded else np.ascontiguousarray(counts)

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
        return max(self.batch * (1 + self.speculate.tokens), self.chunk())

    def num_steps(self) -> int:
        """Number of steps."""
        if self.speculate.tokens:
            return sum(len(block) for block in self.blocks())
        prompts, decodes = self._prompts()
        longest = np.maximum.reduceat(decodes, np.arange(0, decodes.size, self.batch))
        return int(np.ceil(prompts / self.chunk()).sum()) + int(longest.sum())

    def blocks(self, max_rows: int = BLOCK_ROWS) -> Iterator[StepBlock]:
        """All steps, at most ``max_rows`` at a time, with some ``max_rows`` rows (more where one step has more)."""
        offsets, phases = np.asarray(self.trace.request_offsets, np.int64), np.ascontiguousarray(self.row_phase())
        context, at = self.contexts(), offsets[:-1].copy()
        most = max(max_rows, self.max_tokens())
        batch, chunk, cursor = self.batch, self.chunk(), np.zeros(1, np.int64)
        chances, numbers = np.array(self.speculate.chances(), np.float64), self.trace.request_numbers
        counted, others = self.counted_drafts(), self.speculate.rejected == "other"
        numbers = np.arange(self.trace.num_requests) if numbers is None else np.asarray(numbers, np.int64)
        while cursor[0] < offsets.size - 1:
            rows, requests = np.empty(most, np.int64), np.empty(most, np.int64)
            bounds = np.zeros(max_rows + 1, np.int64)
            group, kv_tokens, pairs = (np.empty(max_rows, np.int64) for _ in range(3))
            phase, accepted = np.empty(max_rows, np.uint8), np.empty(most, np.bool_)
            passes, in_step = (np.empty(max_rows, np.int64) for _ in range(2))
            steps = fill_steps(
                cursor, at, offsets, phases, context, batch, chunk, rows, requests,
                bounds, group, phase, kv_tokens, pairs, chances, counted, others, self.seed, numbers, accepted, passes,
                in_step,
            )  # fmt: skip
            size = int(bounds[steps])
            if steps:
                drafted = Drafted(accepted[:size], passes[:steps], in_step[:steps]) if chances.size else None
                yield StepBlock(
                    rows[:size], requests[:size], bounds[: steps + 1], group[:steps], phase[:steps],
                    kv_tokens[:steps], pairs[:steps], self._pauses(rows, requests, bounds[:steps]), drafted,
                )  # fmt: skip

    def _pauses(self, rows: Times, requests: Times, firsts: Times) -> Times:
        """Idle time before the steps whose first rows are ``rows[firsts]``."""
        turns = self.trace.request_turns
        if turns is None or self.think_ns == 0:
            return np.zeros(firsts.size, np.int64)
        of = requests[firsts]
        begins = (rows[firsts] == self.trace.request_offsets[of]) & (turns[of, 1] > 0)
        return np.where(begins, self.think_ns, 0)
