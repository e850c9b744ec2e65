"""When every demanded expert is demanded next, for rules that may see the future."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from policies.state import NEVER


@njit(cache=True)
def next_use(
    ids: Any, rows: Any, step_start: Any, num_experts: int, sequential: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Time of the next demand after each one, [T, L, K], and of every expert's first, [L, E]; NEVER if there is none.

    Times are int64 values of the engine's ``now``.
    ids [T, L, K]; ``rows`` are the trace rows in replay order and step i owns rows[step_start[i]:step_start[i + 1]].
    A layer step is one tick; with ``sequential`` every single access is.
    """
    _, layers, ranks = ids.shape
    upcoming = np.full((layers, num_experts), NEVER, np.int64)
    result = np.full(ids.shape, NEVER, np.int64)
    steps = step_start.shape[0] - 1
    now = rows.shape[0] * layers * ranks if sequential else steps * layers
    for step in range(steps - 1, -1, -1):
        members = rows[step_start[step] : step_start[step + 1]]
        for layer in range(layers - 1, -1, -1):
            for i in range(members.shape[0] - 1, -1, -1):
                for rank in range(ranks - 1, -1, -1):
                    expert = ids[members[i], layer, rank]
                    result[members[i], layer, rank] = upcoming[layer, expert]
                    if sequential:
                        upcoming[layer, expert] = now
                        now -= 1
            if not sequential:
                for row in members:
                    for rank in range(ranks):
                        upcoming[layer, ids[row, layer, rank]] = now
                now -= 1
    return result, upcoming
