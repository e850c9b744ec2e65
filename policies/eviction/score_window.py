"""Score-aware eviction of the SMoE paper."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector, require
from policies.needs import Need
from policies.scores import mean_scores
from policies.state import DECODE, State

COARSE = 1.5 * 2.0**12
"""Floats of this size are multiples of 2^-40, so that adding it and taking it away rounds a smaller number to one."""


@dataclass(frozen=True)
class ScoreWindow(Eviction):
    """Evict the expert with the lowest mean gate score over the last ``window`` decode iterations of its layer.

    priority_i = mean over the last n decode iterations of S_i, where S_i is the gate score of expert i, chosen or not,
    averaged over the tokens of the batch. Ties fall to the lowest (layer, expert). The paper does not give n.
    S_i is rounded to a multiple of 2^-40 (1e-12): sums of up to 4096 such numbers are exact, so that the running sum is
    the sum of the window however long the replay.
    Badly: where scores of later tokens do not follow earlier ones; before the first decode step all priorities are 0.

    Memory per layer: [0] iterations seen, then sums [E] and a ring [window, E].

    Source: "Enabling MoE on the Edge via Importance-Driven Expert Scheduling" (SMoE), Eq. 3,
    https://arxiv.org/abs/2508.18983.
    """

    window: int = 16
    during_prefill: bool = False
    """Whether prefill steps enter the window too (the paper says decode iterations)."""

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.eviction.window", self.window, 1, 4096)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return num_layers * (1 + (1 + self.window) * num_experts)

    def touch(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        window, experts = self.window, state.num_experts
        start = state.layer * (1 + (1 + window) * experts)
        seen, sums = int(memory[start]), memory[start + 1 : start + 1 + experts]
        place = start + 1 + (1 + seen % window) * experts
        oldest, priority = memory[place : place + experts], state.priority[state.layer]
        memory[start] = seen + 1
        filled = min(seen + 1, window)
        mean_scores(state, priority)
        for expert in range(experts):
            newest = (priority[expert] + COARSE) - COARSE
            sums[expert] += newest - oldest[expert]
            oldest[expert] = newest
            priority[expert] = sums[expert] / filled
