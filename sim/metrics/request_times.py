"""One row per request: when its first and its last token came."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE
from sim.engine.interface import BlockResult


class RequestTimes:
    """Follows the clock of each lockstep batch and notes when its members' tokens come."""

    def __init__(self, num_requests: int) -> None:
        self.decode_steps, self.groups = np.zeros(num_requests, np.int64), np.zeros(num_requests, np.int64)
        self.first_s, self.last_s = np.full(num_requests, np.nan), np.zeros(num_requests)
        self.group, self.clock_ns = -1, 0

    def add(self, result: BlockResult) -> None:
        """Note a block."""
        block = result.block
        step_of = np.repeat(np.arange(len(block)), np.diff(block.bounds))  # [N]
        self.groups[block.requests] = block.group[step_of]
        decode = block.phase[step_of] == DECODE
        begun = np.where(self.decode_steps > 0, -1, len(decode))  # [R] where its first decode row is in the block
        rows = np.flatnonzero(decode)[::-1]
        begun[block.requests[rows]] = np.minimum(begun[block.requests[rows]], rows)
        first_prompt = np.arange(len(decode)) < begun[block.requests]
        kept = decode & block.accepted()
        self.decode_steps += np.bincount(block.requests[kept], minlength=len(self.decode_steps))
        if result.latency_ns is None:
            return
        clock_s = self._clock_ns(block.group, result.latency_ns)[step_of] / 1e9
        self.last_s[block.requests] = clock_s  # of several rows of a request the last one stays
        self.first_s[block.requests[first_prompt]] = clock_s[first_prompt]

    def _clock_ns(self, group: NDArray[np.int64], latency_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Time since the start of its batch at the end of every step, [S]."""
        clock = np.cumsum(latency_ns)
        starts = np.flatnonzero(np.diff(group, prepend=self.group))
        before = np.concatenate([[-self.clock_ns], clock[starts] - latency_ns[starts]])
        since = clock - before[np.searchsorted(starts, np.arange(len(group)), side="right")]
        self.group, self.clock_ns = int(group[-1]), int(since[-1])
        return np.asarray(since, np.int64)

    def columns(self, timed: bool) -> dict[str, NDArray[Any]]:
        """Batch, decode steps, and where there is a clock ttft_s, tpot_s and latency_s of every request.

        With drafts a decode step counts once for every token that the request accepts in it.

        Times count from the start of the request's batch. TTFT: until its first prompt has been prefilled (NaN without
        recorded prompt). TPOT = (latency - TTFT) / decode tokens, which includes waiting while other prompts of the
        batch, or its own of later turns, are prefilled (NaN without decode tokens).
        """
        steps, first, last = self.decode_steps, self.first_s, self.last_s
        columns: dict[str, NDArray[Any]] = {
            "request": np.arange(len(steps)),
            "group": self.groups,
            "decode_steps": steps,
        }
        if timed:
            tpot = np.where(steps > 0, (last - np.nan_to_num(first)) / np.maximum(steps, 1), np.nan)
            columns |= {"ttft_s": first, "tpot_s": tpot, "latency_s": last}
        return columns
