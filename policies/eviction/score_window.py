"""Score-aware eviction of the SMoE paper."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector, require
from policies.state import DECODE, State


@dataclass(frozen=True)
class ScoreWindow(Eviction):
    """Evict the expert with the lowest mean gate score over the last ``window`` decode iterations of its layer.

    priority_i = mean over the last n decode iterations of S_i, where S_i is the gate score of expert i, chosen or not,
    averaged over the tokens of the batch. Ties fall to the lowest (layer, expert). The paper does not give n.
    Badly: where scores of later tokens do not follow earlier ones; before the first decode step all priorities are 0.

    Memory per layer: [0] iterations seen, then a ring [window, E].

    Source: "Enabling MoE on the Edge via Importance-Driven Expert Scheduling" (SMoE), Eq. 3,
    https://arxiv.org/abs/2508.18983.
    """

    window: int = 16
    during_prefill: bool = False
    """Whether prefill steps enter the window too (the paper says decode iterations)."""

    needs: ClassVar[frozenset[str]] = frozenset({"gate_scores"})

    def __post_init__(self) -> None:
        require("policy.eviction.window", self.window, 1, 4096)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * (1 + self.window * num_experts)

    @staticmethod
    def touch(state: State, knobs: Vector, memory: Vector) -> None:
        if state.phase != DECODE and knobs[1] == 0.0:
            return
        window, experts = int(knobs[0]), state.num_experts
        base = state.layer * (1 + window * experts)
        row = base + 1 + (int(memory[base]) % window) * experts
        memory[base] += 1
        filled = min(int(memory[base]), window)
        scores, priority = state.scores, state.priority[state.layer]
        for expert in range(experts):
            memory[row + expert] = priority[expert] = 0.0
        for token in range(state.num_tokens):
            for expert in range(experts):
                memory[row + expert] += scores[token, expert] / state.num_tokens
        for i in range(filled):
            for expert in range(experts):
                priority[expert] += memory[base + 1 + i * experts + expert]
        for expert in range(experts):
            priority[expert] /= filled
