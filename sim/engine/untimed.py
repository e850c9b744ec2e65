"""Replay without a clock: copies arrive at once. For hit counting, published curves and sequential semantics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import b1, f4, i4, i8, njit, void

from sim.engine import core
from sim.engine.layout import MACHINE, RULES, STATE


@njit(cache=True)
def untimed_layer(
    s: Any, m: Any, r: Any, layer: int, phase: int, ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any
) -> None:
    """One layer step: every copy arrives when it starts; experts run when a slot is wanted, else at the end."""
    core.begin(s, m, r, layer, phase, ids, weights, scores, lookahead, next_use)
    done = 0
    while True:
        code = core.next_copy(s, m, r)
        if code == core.WAIT:
            core.executed(s, m, m.gpu_queue[done])
            done += 1
        elif code == core.IDLE:
            break
        else:
            core.copy_done(s, m)
    while done < m.plan[1]:
        core.executed(s, m, m.gpu_queue[done])
        done += 1
    core.end(s, m, r)
    while core.next_copy(s, m, r) != core.IDLE:
        core.copy_done(s, m)


@njit(
    void(STATE, MACHINE, RULES, i8, b1, i4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], i8[:, :, ::1]),
    cache=True,
)
def untimed_step(
    s: Any,
    m: Any,
    r: Any,
    phase: int,
    sequential: bool,
    ids: Any,
    weights: Any,
    scores: Any,
    lookahead: Any,
    nexts: Any,
) -> None:
    """All layers of one step; with ``sequential`` every (token, rank) is a layer step of its own."""
    tokens, layers, ranks = ids.shape
    for layer in range(layers):
        if not sequential:
            untimed_layer(s, m, r, layer, phase, ids, weights, scores, lookahead, nexts)
            continue
        for token in range(tokens):
            for rank in range(ranks):
                t, k = slice(token, token + 1), slice(rank, rank + 1)
                one = np.ascontiguousarray(ids[t, :, k])
                weight = np.ascontiguousarray(weights[t, :, k]) if weights.shape[0] > 0 else weights
                score = np.ascontiguousarray(scores[t]) if scores.shape[0] > 0 else scores
                ahead = np.ascontiguousarray(lookahead[t]) if lookahead.shape[0] > 0 else lookahead
                future = np.ascontiguousarray(nexts[t, :, k]) if nexts.shape[0] > 0 else nexts
                untimed_layer(s, m, r, layer, phase, one, weight, score, ahead, future)
