"""Frequency that fades: one recency list per class of frequency."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Eviction, Vector, require
from policies.jitable import jitable
from policies.priorities import first_call
from policies.state import RESIDENT, State


@jitable
def age_of(state: State, memory: Vector, cell: int) -> float:
    """Forward passes since the last touch of an expert, whose CRF and time of the last touch begin at ``cell``."""
    return float((state.now - memory[cell + 1]) / state.num_layers)


@jitable
def fade(state: State, memory: Vector, cell: int, half_life: float) -> None:
    """Let an expert's CRF fade by its age, and note a touch."""
    memory[cell] *= 0.5 ** (age_of(state, memory, cell) / half_life)
    memory[cell + 1] = state.now


@dataclass(frozen=True)
class AgedLfu(Eviction):
    """Evict the expert with the largest age / 2^class, class = floor(log2(CRF)) when it was last touched.

    CRF = 1 + CRF * 2^(-age / half_life_tokens) at every use (combined recency and frequency). Age is the time since the
    last touch in forward passes, a layer step being 1/L of one; a pass is a token when decoding at batch 1, and a
    prompt's prefill is one pass too. A prefetch touches without counting as a use. Only the opening of the source was
    read: how it counts prompts and breaks ties is not known here. Badly: a scan of more experts than the capacity.

    Memory: [0] the time of the last refresh, then [L, E, 2] CRF and time of the last touch.

    Source: llama.cpp branch, src/llama-moe-cache.cpp at c4fb579, https://github.com/ggml-org/llama.cpp (half-life 128
    tokens); CRF: Lee et al., "LRFU", IEEE Transactions on Computers 50(12), 2001, https://doi.org/10.1109/TC.2001.970573.
    """

    half_life_tokens: float = 128.0

    one_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("policy.eviction.half_life_tokens", self.half_life_tokens, 1e-3, 1e9)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + 2 * num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        for i in range(state.num_executed):
            expert = state.executed[i]
            cell = 1 + 2 * (state.layer * state.num_experts + expert)
            fade(state, memory, cell, self.half_life_tokens)
            memory[cell] += 1.0
            state.priority[state.layer, expert] = 0.0

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        if prefetched:
            cell = 1 + 2 * (layer * state.num_experts + expert)
            fade(state, memory, cell, self.half_life_tokens)
            state.priority[layer, expert] = 0.0

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        if not first_call(state, memory):
            return
        for other in range(state.num_layers):
            for expert in range(state.num_experts):
                if state.status[other, expert] == RESIDENT:
                    cell = 1 + 2 * (other * state.num_experts + expert)
                    age = age_of(state, memory, cell)
                    # the floor of 2^-20 is for experts that were fetched early and never used
                    state.priority[other, expert] = -age / 2.0 ** np.floor(np.log2(max(memory[cell], 2.0**-20)))
