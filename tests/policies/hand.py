"""Small states and calls for tests of single rules in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from omegaconf import OmegaConf

from policies.base import Part
from policies.state import DECODE, State, plain_state
from sim.assembly.build import make_part
from sim.paths import CONF


def yaml_names(kind: str) -> list[str]:
    """Every yaml of a part, for example of 'prediction'."""
    return sorted(path.stem for path in (CONF / "policy" / kind).glob("*.yaml"))


def from_yaml(kind: str, name: str) -> Any:
    """A part as its yaml describes it."""
    config = {"policy": {"alpha": 0.35, kind: OmegaConf.load(CONF / "policy" / kind / f"{name}.yaml")}}
    return make_part(kind, OmegaConf.create(config).policy[kind])


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
