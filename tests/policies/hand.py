"""Small states and calls for tests of single rules in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.base import Part
from policies.state import DECODE, RESIDENT, State, plain_state


def empty_memory(part: Part, state: State) -> Any:
    return np.zeros(part.memory_size(state.num_layers, state.num_experts, state.num_ranks))


def decode_state(layers: int, experts: int, ranks: int, tokens: int = 1, depth: int = 3) -> State:
    """A decode step of ``tokens`` tokens at layer 0."""
    state = plain_state(layers, experts, ranks, tokens, depth=depth)
    state.num_tokens, state.phase = tokens, DECODE
    return state


def predict(part: Any, state: State, memory: Any = None) -> list[Any]:
    """Call ``predict`` as an engine does -> predicted scores by layer ahead, each [rows, E] as lists."""
    state.num_predicted, state.num_predicted_tokens = 0, state.num_tokens
    part.predict(state, empty_memory(part, state) if memory is None else memory)
    rows = state.num_predicted_tokens
    return [state.predicted[ahead, :rows].tolist() for ahead in range(state.num_predicted)]


def choose(part: Any, state: State, *predicted: Any) -> list[tuple[int, int]]:
    """Call ``choose`` on scores by layer ahead, each [rows, E] -> (layer, expert) in the order to fetch."""
    for ahead, scores in enumerate(predicted):
        rows = np.atleast_2d(np.array(scores, np.float32))
        state.num_predicted_tokens = rows.shape[0]
        state.predicted[ahead, : rows.shape[0]] = rows
    state.num_predicted, state.num_prefetch = len(predicted), 0
    part.choose(state, empty_memory(part, state))
    pairs = zip(state.prefetch_layer.tolist(), state.prefetch_expert.tolist(), strict=True)
    return list(pairs)[: state.num_prefetch]


def decide(part: Any, decision: str, state: State, memory: Any = None, *more: Any) -> Any:
    """Call a decision with an empty memory, unless one is given."""
    return getattr(part, decision)(state, empty_memory(part, state) if memory is None else memory, *more)


def routed_state(scores: Any, ids: Any, resident: Any, phase: int = DECODE) -> State:
    """One layer; scores [B, E], ids [B, K], resident experts."""
    scores, ids = np.atleast_2d(np.array(scores, np.float32)), np.atleast_2d(np.array(ids, np.int32))
    state = plain_state(1, scores.shape[1], ids.shape[1], scores.shape[0])
    state.num_tokens, state.phase, state.has_scores = scores.shape[0], phase, 1
    state.scores[:], state.ids[:], state.executed_ids[:] = scores, ids, ids
    state.status[0, resident] = RESIDENT
    return state
