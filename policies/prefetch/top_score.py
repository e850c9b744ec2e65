"""Prefetch only what the next layer will need most: SMoE's top-score rule."""

from dataclasses import dataclass

from policies.base import Prefetch, Vector, require
from policies.prefetches import fetch_best, fetch_top_scores, top_scores
from policies.state import State


@dataclass(frozen=True)
class TopScore(Prefetch):
    """Fetch the predicted top-score experts of the next layer, highest predicted score first.

    Top-score: among the predicted top k, score >= (1 + alpha) * S_{k+1}. Predicted low-score experts are left out: they
    can be substituted if they are missed. ``limit`` caps the number per layer step (0: no cap; the paper has none).
    ``link_idle``: leave out what does not fit into the time in which the link stands idle until the next lookup, as far
    as it can be foreseen; the paper has no such gate.
    Badly: on a link that demand already keeps busy, early bytes only queue, and demand has to wait for them.

    Memory is scratch: a score per expert.

    Source: SMoE, criteria C4 and C5, https://arxiv.org/abs/2508.18983.
    """

    alpha: float = 0.35
    limit: int = 0
    link_idle: bool = False

    def __post_init__(self) -> None:
        require("policy.prefetch.alpha", self.alpha, 0.0, 1.0)
        require("policy.prefetch.limit", self.limit, 0, 65536)

    def only_on_idle_link(self) -> bool:
        return self.link_idle

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_experts

    def choose(self, state: State, memory: Vector) -> None:
        if state.num_predicted == 0:
            return
        limit = self.limit or state.num_experts
        if state.num_predicted_tokens == 1:
            fetch_top_scores(state, self.alpha, limit)
        else:
            top_scores(state, self.alpha, memory)
            fetch_best(state, 0, memory, limit)
