"""Fetch early what the next layer will want, best first, in pieces that demand overtakes."""

from dataclasses import dataclass

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.jitable import jitable
from policies.prefetches import Scores, fetch
from policies.state import State
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
    Badly: where predictions are poor each wrong one evicts an expert; each piece pays the latency of a copy.

    Source: rule of this project; pieces as in ProMoE (``chunked``), https://arxiv.org/abs/2410.22134.
    """

    pieces: int = 8
    least: float = 0.05

    def __post_init__(self) -> None:
        require("policy.prefetch.pieces", self.pieces, 1, 1024)
        require("policy.prefetch.least", self.least, 0.0, 1.0)

    def chunks(self) -> int:
        return self.pieces

    def choose(self, state: State, memory: Vector) -> None:
        if state.num_predicted == 0:
            return
        shares = np.zeros(state.num_experts, np.float64)
        predicted_shares(state, shares)
        while True:
            best = int(np.argmax(shares))
            if shares[best] <= 0.0 or shares[best] < self.least:
                return
            shares[best] = 0.0
            fetch(state, state.layer + 1, best)


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
