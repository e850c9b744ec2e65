"""Bring in idle time of the link what the next layer will want, then what the CPU has just computed, in pieces."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.jitable import jitable
from policies.prefetches import Scores, fetch
from policies.state import ABSENT, CPU, LINK, RESIDENT, State
from traces.score_bands import top_experts


@dataclass(frozen=True)
class IdlePieces(Prefetch):
    """Fetch the next layer's experts whose predicted share of weight is at least ``least``, the highest share first.

    share: of the predicted weight of a token's top k, summed over the tokens: how likely the expert is wanted, times
    what it would carry. Nothing else bounds their number, since the link does: demand goes first, what has not begun
    when its layer comes is cancelled, and of what is under way demand waits for one of ``pieces`` pieces. So early
    copies take idle time of the link only, whatever made it idle (the CPU's experts, the host), which no forecast of
    the idle time has to foresee. A part of a copy made early is that much off the critical path if it was right; if it
    was wrong, what was evicted for it is lost: ``least`` is the price of that. What is there already is listed too, so
    that it is not evicted for another.

    Behind them come experts of this layer that the CPU computes in this step: the split between CPU and link knows this
    step alone, and what the CPU computes would never enter the cache however often it is used. Admission costs nobody
    time there but what it evicts, so that one comes where the eviction rule values it above the resident that would go
    for it, or a slot is free. They come for later steps, unprotected; queued ones that have not begun when their layer
    runs again are cancelled. Without a prediction they are all that comes.
    Badly: where predictions are poor each wrong one evicts an expert; each piece pays the latency of a copy; what is
    foreseen waits for a promotion under way.

    Source: rule of this project; pieces as in ProMoE (``chunked``), https://arxiv.org/abs/2410.22134; promotion as in
    llama.cpp's expert cache (``promote_missed``), https://github.com/ggml-org/llama.cpp/pull/27861.
    """

    pieces: int = 8
    least: float = 0.05

    admits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("policy.prefetch.pieces", self.pieces, 1, 1024)
        require("policy.prefetch.least", self.least, 0.0, 1.0)

    def chunks(self) -> int:
        return self.pieces

    def choose(self, state: State, memory: Vector) -> None:
        if state.num_predicted > 0:
            fetch_likely(state, self.least)
        promote(state)


@jitable
def fetch_likely(state: State, least: float) -> None:
    """Fetch the next layer's experts by falling share of the predicted weight, down to ``least``."""
    shares = np.zeros(state.num_experts, np.float64)
    predicted_shares(state, shares)
    best = int(np.argmax(shares))
    while shares[best] > 0.0 and shares[best] >= least:
        shares[best] = 0.0
        fetch(state, state.layer + 1, best)
        best = int(np.argmax(shares))


@jitable
def promote(state: State) -> None:
    """Fetch what the CPU computes in this layer step, the worthiest first, while it is worth more than what would go.

    Copies on demand take the free slots and the least worthy residents before.
    """
    layer, priority, status = state.layer, state.priority[state.layer], state.status[state.layer]
    worth, count, copied = np.full(state.num_experts, np.inf), 0, 0
    for expert in range(state.num_experts):
        if status[expert] == RESIDENT and state.shield[layer, expert] == 0:
            worth[count] = priority[expert]
            count += 1
    worth.sort()
    waiting = np.zeros(state.num_missing, np.bool_)
    for i in range(state.num_missing):
        waiting[i] = state.side[i] == CPU and status[state.missing[i]] == ABSENT
        copied += state.side[i] == LINK and status[state.missing[i]] == ABSENT
    for victim in range(copied - state.free_slots, count):
        best = -1
        for i in range(state.num_missing):
            if waiting[i] and (best < 0 or priority[state.missing[i]] > priority[state.missing[best]]):
                best = i
        if best < 0 or (victim >= 0 and priority[state.missing[best]] <= worth[victim]):
            return
        waiting[best] = False
        fetch(state, layer, state.missing[best])


@jitable
def predicted_shares(state: State, shares: Scores) -> None:
    """Add up for each expert of the next layer its share of the predicted top k of every row, [E]."""
    count = min(state.num_ranks, state.num_experts)
    best = np.zeros(count, np.int32)
    for row in range(state.num_predicted_tokens):
        scores = state.predicted[0, row, : state.num_experts]
        top_experts(scores, count, best)
        total = 0.0
        for rank in range(count):
            total += max(float(scores[best[rank]]), 0.0)
        for rank in range(count):
            shares[best[rank]] += max(float(scores[best[rank]]), 0.0) / total if total > 0.0 else 0.0
