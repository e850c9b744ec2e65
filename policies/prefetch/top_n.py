"""The n experts that the next layer most likely needs."""

from dataclasses import dataclass

from policies.base import Prefetch, Vector, require
from policies.prefetches import fetch_best, summed_scores
from policies.state import State


@dataclass(frozen=True)
class TopN(Prefetch):
    """Fetch the ``n`` experts of the next layer with the highest predicted score, summed over the tokens.

    Those already there count among the n; an expert with score 0 is never fetched. Mixtral-offloading fetches 1 or 2.
    Badly: a fixed number is too many where experts are large for the link, too few where a batch wants more.

    Memory is scratch: a sum per expert.

    Source: Eliseev and Mazur, speculative expert loading, section 3.2, https://arxiv.org/abs/2312.17238.
    """

    n: int = 2

    def __post_init__(self) -> None:
        require("policy.prefetch.n", self.n, 1, 65536)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_experts

    def choose(self, state: State, memory: Vector) -> None:
        if state.num_predicted > 0:
            summed_scores(state, 0, memory)
            fetch_best(state, 0, memory, min(self.n, state.num_experts))
