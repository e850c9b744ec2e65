"""Keep what the next tokens are most likely to use, by how often and how strongly the gate asked for it lately."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Eviction, Vector, require
from policies.memory import layer_row
from policies.needs import Need
from policies.scores import mean_scores
from policies.state import State


@dataclass(frozen=True)
class ExpectedReuse(Eviction):
    """Evict the expert of the lowest R, with R <- R + ``rate`` * (``routed`` * share of tokens + mean score - R).

    A resident expert is worth what its absence would cost: how often it will be routed, times what must then be copied,
    computed on the CPU or given up. If an expert's use in a step is a coin whose bias drifts, the exponentially
    weighted share of steps that used it estimates the bias; the mean gate score adds what each use carries, and tells
    experts that were nearly chosen from those that never are. A drift of one in 1 / rate tokens sets the memory.
    Both terms come from every step of the layer, prompts too, whatever was executed in place of an expert.
    Badly: a change of topic within 1 / rate tokens is seen late.

    Memory: R [L, E].

    Source: rule of this project; the two terms are those of LFU with ageing (``aged_lfu``) and of SMoE's score window.
    """

    rate: float = 0.05
    routed: float = 0.3

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.eviction.rate", self.rate, 1e-6, 1.0)
        require("policy.eviction.routed", self.routed, 0.0, 1e6)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        reuse, now = layer_row(state, memory, 0), np.zeros(state.num_experts, np.float64)
        mean_scores(state, now)
        for token in range(state.num_tokens):
            for rank in range(state.token_ranks[token]):
                now[state.ids[token, rank]] += self.routed / state.num_tokens
        for expert in range(state.num_experts):
            reuse[expert] += self.rate * (now[expert] - reuse[expert])
            state.priority[state.layer, expert] = reuse[expert]
