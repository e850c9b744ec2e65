"""MoE-Infinity's eviction as its paper describes it."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector, require
from policies.state import State


@dataclass(frozen=True)
class ActivationPrior(Eviction):
    """Evict the expert with the lowest (p + epsilon) / n_token * (1 - layer / L).

    p counts the tokens that the current sequence has sent to the expert so far, n_token the tokens its layer has seen;
    both start anew with every lockstep batch. The paper reads p from its predicted activation matrix, a match in a
    collection of earlier sequences; here p is the sequence's own part of it. The value of epsilon is not known here.
    Early layers are kept longer because nothing can be prefetched for them in time. Badly: at the start of a sequence
    only the layer decides.

    Memory: [0] lockstep batch + 1, n_token [L], p [L, E].

    Source: MoE-Infinity, expert cache replacement, https://arxiv.org/abs/2401.14361. Its code does something else: see
    ``in_cache_visits``.
    """

    epsilon: float = 1e-6

    one_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("policy.eviction.epsilon", self.epsilon, 0.0, 1.0)

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + num_layers + num_layers * num_experts

    def touch(self, state: State, memory: Vector) -> None:
        layers, experts, layer = state.num_layers, state.num_experts, state.layer
        if memory[0] != state.group + 1:
            memory[:] = 0.0
            memory[0] = state.group + 1
            for other in range(layers):
                state.priority[other, :] = self.epsilon * (1.0 - other / layers)
        base = 1 + layers + layer * experts
        memory[1 + layer] += state.num_tokens
        for i in range(state.num_executed):
            memory[base + state.executed[i]] += state.executed_tokens[i]
        for expert in range(experts):
            share = (memory[base + expert] + self.epsilon) / memory[1 + layer]
            state.priority[layer, expert] = share * (1.0 - layer / layers)
