"""Fetch less important missing experts in low precision, skip the least important: HOBBIT."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Substitution, Vector, require
from policies.needs import Need
from policies.scores import share_of_weight
from policies.state import ABSENT, DECODE, DROPPED, LOW, State


@dataclass(frozen=True)
class MixedPrecision(Substitution):
    """Supply a missing expert in full precision, in low precision or not at all, by the weight of those before it.

    c = share of the token's weight that its better-ranked experts hold. c <= ``full_until`` (T1): full precision;
    c <= ``low_until`` (T2): a low-precision copy will do; above: dropped. The best expert has c = 0 and is always
    fetched in full. If tokens of a batch differ, the most demanding one decides the precision. A low-precision copy
    that is already there is executed rather than dropped.
    Badly: where ranks are nearly equal the lower ones are degraded for their place alone.

    Source: HOBBIT, https://arxiv.org/abs/2411.01433.
    """

    full_until: float = 0.6
    low_until: float = 0.9
    during_prefill: bool = False
    low_bits: float = 4.0
    """Stored bits per weight of a low-precision copy; must be below the model's own."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMPORTANCE, Need.LOW_PRECISION})

    def __post_init__(self) -> None:
        require("policy.substitution.full_until", self.full_until, 0.0, 1.0)
        require("policy.substitution.low_until", self.low_until, self.full_until, 1.0)
        require("policy.substitution.low_bits", self.low_bits, 1.0, 64.0)

    def low_precision_bits(self) -> float:
        return self.low_bits

    def substitute(self, state: State, memory: Vector) -> None:
        if state.phase != DECODE and not self.during_prefill:
            return
        full = np.zeros(state.num_experts, np.bool_)
        for token in range(state.num_tokens):
            before = 0.0
            for rank in range(state.token_ranks[token]):
                expert = state.ids[token, rank]
                status = state.status[state.layer, expert]
                if before <= self.full_until:
                    full[expert] = True
                elif before > self.low_until and status == ABSENT:
                    state.executed_ids[token, rank] = DROPPED
                elif status in (ABSENT, LOW):
                    state.degraded[expert] = 1
                before += share_of_weight(state, token, rank)
        for expert in range(state.num_experts):
            if full[expert]:
                state.degraded[expert] = 0
