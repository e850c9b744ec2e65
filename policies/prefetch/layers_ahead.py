"""The next layer's experts, and those of later layers once the next is complete: AdapMoE's rule."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Prefetch, Vector, require
from policies.prefetches import best_of_rows, fetch_best, is_missing
from policies.state import State


@dataclass(frozen=True)
class LayersAhead(Prefetch):
    """Fetch each token's ``count`` best predicted experts of the first layer ahead that lacks any of them.

    The next layer comes first. If all of its experts are resident or on the link, the layer after it is looked at, and
    so on as far as the prediction reaches (AdapMoE: two or three layers). ``count`` 0: the model's top k. Within a
    layer the highest score, summed over the tokens, goes first.
    ``link_idle``: leave out what does not fit into the time in which the link stands idle until the next lookup.
    Badly: predictions two and three layers ahead are wrong more often, and their bytes are only free on an idle link.

    Source: AdapMoE, adaptive prefetching, https://arxiv.org/abs/2408.10284.
    """

    count: int = 0
    link_idle: bool = False

    chooses_ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("policy.prefetch.count", self.count, 0, 65536)

    def only_on_idle_link(self) -> bool:
        return self.link_idle

    def choose(self, state: State, memory: Vector) -> None:
        count = min(self.count or state.num_ranks, state.num_experts)
        total = np.zeros(state.num_experts)
        for ahead in range(state.num_predicted):
            best_of_rows(state, ahead, count, total)
            complete = True
            for expert in range(state.num_experts):
                if total[expert] > 0.0 and is_missing(state, state.layer + 1 + ahead, expert):
                    complete = False
            fetch_best(state, ahead, total, state.num_experts)
            if not complete:
                return
