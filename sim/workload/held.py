"""How many tokens' K and V lie on the device at every step."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim.workload.steps import Schedule, StepBlock

Whole = NDArray[np.int64]


@njit(cache=True)
def hold(
    rows: Whole, requests: Whole, accepted: NDArray[np.bool_], bounds: Whole, offsets: Whole, context: Whole,
    owner: Whole, ends: NDArray[np.bool_], held: Whole, total: Whole, found: Whole,
) -> None:  # fmt: skip
    """found [S] = tokens held during each step. ``held`` [R] by owner and ``total`` [1] go on from block to block.

    The rows of a request in a step follow each other from the first on; that of a rejected draft may stand for another.
    """
    for step in range(found.shape[0]):
        row = 0
        for i in range(bounds[step], bounds[step + 1]):
            row = rows[i] if i == bounds[step] or requests[i] != requests[i - 1] else row + 1
            now, whose = row + context[requests[i]] + 1, owner[requests[i]]
            if now > held[whose]:
                total[0] += now - held[whose]
                held[whose] = now
        found[step] = total[0]
        for i in range(bounds[step], bounds[step + 1]):
            whose = owner[requests[i]]
            if ends[requests[i]] and accepted[i] and rows[i] == offsets[requests[i] + 1] - 1:
                total[0] -= held[whose]
                held[whose] = 0


class HeldTokens:
    """Follows the steps of a schedule. A request gives its tokens back when it ends; a turn whose chat keeps its KV
    cache leaves them to the next turn, other chats' turns in between or not."""

    def __init__(self, schedule: Schedule, keeps_kv: bool) -> None:
        trace = schedule.trace
        requests = np.arange(trace.num_requests)
        self.owner, self.ends = requests, np.ones(requests.size, np.bool_)
        if keeps_kv and trace.request_turns is not None:
            self.owner = np.ascontiguousarray(np.unique(trace.request_turns[:, 0], return_inverse=True)[1])
            last = np.zeros(requests.size, np.int64)
            np.maximum.at(last, self.owner, requests)
            self.ends = last[self.owner] == requests
        self.offsets, self.context = np.asarray(trace.request_offsets, np.int64), schedule.contexts()
        self.held, self.total = np.zeros(requests.size, np.int64), np.zeros(1, np.int64)

    def of(self, block: StepBlock) -> Whole:
        """[S] tokens during each of the next steps."""
        found = np.zeros(len(block), np.int64)
        hold(
            block.rows, block.requests, block.accepted(), block.bounds, self.offsets, self.context, self.owner,
            self.ends, self.held, self.total, found,
        )  # fmt: skip
        return found
