"""The eviction that SMoE's released code runs."""

from dataclasses import dataclass

from policies.base import Eviction, Vector, require
from policies.jitable import jitable
from policies.memory import given
from policies.needs import Need
from policies.state import ABSENT, State


@jitable
def drop_absent(state: State, memory: Vector, arriving: int) -> None:
    """Shorten the load order to what is resident or in flight, without ``arriving`` (layer * E + expert, -1: none)."""
    length = 0
    for i in range(int(memory[0])):
        key = int(memory[1 + i])
        if key != arriving and state.status[key // state.num_experts, key % state.num_experts] != ABSENT:
            memory[1 + length] = key
            length += 1
    memory[0] = length


@jitable
def push_scores(state: State, memory: Vector, window: int) -> None:
    """Add the scores of every token of the step to its layer's ring of the last ``window`` tokens."""
    experts = state.num_experts
    base = 1 + state.num_layers * experts + state.layer * (1 + (window + 1) * experts)
    for token in range(max(0, state.num_tokens - window), state.num_tokens):
        row = base + 1 + (1 + int(memory[base]) % window) * experts
        for expert in range(experts):
            memory[base + 1 + expert] += state.scores[token, expert] - memory[row + expert]
            memory[row + expert] = state.scores[token, expert]
        memory[base] += 1.0


@dataclass(frozen=True)
class SmoeCode(Eviction):
    """First in, first out, whatever the configuration calls it; with ``window`` set, biased by mean scores.

    window null (as in every shipped configuration, there called LRU): evict the expert loaded first. The order of
    loading changes only when an expert is loaded: use does not count.
    window w: evict the lowest mean_score * (n + 1) + position, where position 0..n-1 is the place in the order of
    loading among the n experts in the cache, and mean_score the mean over the last w tokens of its layer, prompt
    included. A mean score of 1/E lifts an expert by about n / E places: the position decides mostly.
    Experts of the current layer are shielded in the code too; prefetched ones are not, but the engine shields them.
    The code has one pool for all layers, filled at the start in order of (layer, expert): ``cache.scope=global``,
    ``cache.start=warm``. Badly: as ``fifo``. The paper's rule is ``score_window``.

    Memory: [0] length of the load order, load order [L * E]; with a window then per layer: tokens seen, sums [E], ring
    [window, E].

    Source: SMoE's code, utils/expertcache.py (choose_expert_to_evictbyScore, choose_expert_to_evictbyLRU, swap),
    https://github.com/goingshr/SMoE.
    """

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            require("policy.eviction.window", self.window, 1, 4096)

    def all_needs(self) -> frozenset[Need]:
        return frozenset() if self.window is None else frozenset({Need.GATE_SCORES})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        scores = 0 if self.window is None else num_layers * (1 + (self.window + 1) * num_experts)
        return 1 + num_layers * num_experts + scores

    def touch(self, state: State, memory: Vector) -> None:
        if given(self.window):
            push_scores(state, memory, int(self.window))

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        key = layer * state.num_experts + expert
        drop_absent(state, memory, key)
        memory[0] += 1.0
        memory[int(memory[0])] = key

    def refresh(self, state: State, memory: Vector, layer: int) -> None:
        drop_absent(state, memory, -1)
        experts, length = state.num_experts, int(memory[0])
        window = int(self.window) if given(self.window) else 0
        for position in range(length):
            key = int(memory[1 + position])
            other, expert = key // experts, key % experts
            state.priority[other, expert] = position
            base = 1 + state.num_layers * experts + other * (1 + (window + 1) * experts)
            if window > 0 and memory[base] > 0.0:
                mean = memory[base + 1 + expert] / min(memory[base], float(window))
                state.priority[other, expert] += mean * (length + 1)
