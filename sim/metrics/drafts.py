"""What speculation adds to the table of steps, and how it compares with a replay that drafts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE
from sim.machine.durations import Durations
from sim.workload.steps import StepBlock

DRAFT_COLUMNS = (
    "num_rows", "num_requests", "drafts", "accepted_drafts", "rejected_drafts", "draft_ns", "token_draft_ns",
)  # fmt: skip
"""Columns of the per-step table in a replay that speculates; all but the first two are 0 in a prefill. ``draft_ns``:
what drafting takes; ``token_draft_ns``: that times the requests."""


def draft_columns(block: StepBlock, durations: Durations, timed: bool) -> dict[str, NDArray[Any]]:
    """[S] each: rows and requests of a step, its drafts, and where there is a clock what drafting took."""
    rows, requests, tokens = block.num_rows(), block.num_requests(), block.num_tokens()
    decodes = block.phase == DECODE
    columns: dict[str, NDArray[Any]] = {
        "num_rows": rows,
        "num_requests": requests,
        "drafts": np.where(decodes, rows - requests, 0),
        "accepted_drafts": np.where(decodes, tokens - requests, 0),
        "rejected_drafts": np.where(decodes, rows - tokens, 0),
    }
    if timed:
        drafting_ns = durations.drafting_ns(block.passes(), requests).sum(axis=1)
        columns |= {"draft_ns": drafting_ns, "token_draft_ns": drafting_ns * requests}
    return columns


Whole = NDArray[np.int64]
"""Per step or token."""


def token_times(latency_ns: Whole, requests: Whole, tokens: Whole) -> Whole:
    """Time of each decode token of S steps, [tokens.sum()]: an equal share of the step's time, once for each request.

    Whole nanoseconds that sum to latency * requests of each step; what does not divide goes to its first tokens.
    """
    whole = latency_ns * requests
    step = np.repeat(np.arange(len(tokens)), tokens)
    place = np.arange(len(step)) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    return np.asarray(whole[step] // tokens[step] + (place < whole[step] % tokens[step]), np.int64)


def expected_tokens(chances: Sequence[float]) -> float:
    """Tokens that a step is expected to accept: 1 + a1 + a1 a2 + ..., a_i the chance of draft i after those before it.

    Source: Leviathan et al., equation 1, https://arxiv.org/abs/2211.17192, for equal chances.
    """
    return 1.0 + float(np.cumprod(chances).sum())


def break_even(ratio: float, num_drafts: int, decay: float) -> float | None:
    """The acceptance a at which ``expected_tokens`` of a, a d, a d^2, ... is ``ratio``; 0 below 1, None above all.

    By bisection to 1e-9: the expectation grows with a.
    """
    low, high = 0.0, 1.0
    if expected_tokens([decay**i for i in range(num_drafts)]) < ratio:
        return None
    if ratio <= 1.0:
        return 0.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if expected_tokens([middle * decay**i for i in range(num_drafts)]) < ratio:
            low = middle
        else:
            high = middle
    return high
