"""A layer some way ahead, copied in pieces that demand may overtake: ProMoE's stride and chunks."""

from dataclasses import dataclass

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.prefetches import best_of_rows, fetch_best
from policies.state import State


@dataclass(frozen=True)
class Chunked(Prefetch):
    """Fetch each token's ``count`` best predicted experts of layer l + ``stride``, each copied in ``pieces`` pieces.

    A demand copy waits for one piece, not for a whole expert. At the first layer all layers up to the stride are
    fetched, nearest first: nothing else would cover them. ``count`` 0: the model's top k. Within a layer the highest
    score, summed over the tokens, goes first. Where the prediction does not reach the stride, nothing is fetched.
    ProMoE also executes the experts that are there before those on the way; the engine always does. ProMoE predicts
    with a trained network per layer; any prediction will do here. The stride of 1 is not taken from the paper.
    Badly: each piece pays the latency of a copy once more.

    Source: ProMoE, stride prefetching, chunked prefetching and early preemption, https://arxiv.org/abs/2410.22134.
    """

    pieces: int = 3
    stride: int = 1
    count: int = 0

    def __post_init__(self) -> None:
        require("policy.prefetch.pieces", self.pieces, 1, 1024)
        require("policy.prefetch.stride", self.stride, 1, 1024)
        require("policy.prefetch.count", self.count, 0, 65536)

    def chunks(self) -> int:
        return self.pieces

    def choose(self, state: State, memory: Vector) -> None:
        count = min(self.count or state.num_ranks, state.num_experts)
        total = np.zeros(state.num_experts)
        first = 0 if state.layer == 0 else self.stride - 1
        for ahead in range(first, min(self.stride, state.num_predicted)):
            best_of_rows(state, ahead, count, total)
            fetch_best(state, ahead, total, state.num_experts)
