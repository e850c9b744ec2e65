"""Whether a trace counts the drafts of every step that is replayed."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from policies.state import PREFILL
from sim.workload.steps import Schedule, Times, count_drafts
from traces.errors import UserError
from traces.format.trace import NO_STEP


@njit(cache=True)
def first_uncounted(offsets: Times, row_phase: NDArray[np.uint8], most: int, counted: NDArray[np.uint8]) -> int:
    """The first row that a step begins with and that no drafts were counted at; -1: none."""
    for request in range(offsets.shape[0] - 1):
        row, end = offsets[request], offsets[request + 1]
        while row < end:
            if row_phase[row] == PREFILL:
                row += 1
                continue
            if counted[row, 0] == NO_STEP:
                return int(row)
            row += 1 + min(count_drafts(row, end, row_phase, most, counted), int(counted[row, 1]))
    return -1


def require_counts(schedule: Schedule) -> None:
    """Raises: UserError where ``speculate.acceptance=recorded`` asks for what the trace does not hold."""
    speculate, trace = schedule.speculate, schedule.trace
    if not speculate.recorded or not speculate.tokens:
        return
    if trace.draft_counts is None:
        raise UserError(
            f"speculate.acceptance=recorded: this trace of {trace.geometry.model} holds no draft_counts "
            "(traces/README.md): give a probability, as measured"
        )
    offsets = np.asarray(trace.request_offsets, np.int64)
    counted, phases = schedule.counted_drafts(), np.ascontiguousarray(schedule.row_phase())
    if (row := first_uncounted(offsets, phases, speculate.tokens, counted)) >= 0:
        most = int(counted[counted[:, 0] != NO_STEP, 0].max(initial=0))
        raise UserError(
            f"speculate.acceptance=recorded: with speculate.tokens={speculate.tokens} a step begins at row {row}, and "
            f"no drafts were counted there (draft_counts): steps of this trace verified up to {most} drafts"
        )
