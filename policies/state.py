"""The state a rule sees: arrays and counters of one device at one layer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from traces.trace import DECODE as DECODE
from traces.trace import PREFILL as PREFILL

ABSENT, IN_FLIGHT, RESIDENT = 0, 1, 2
"""Values of ``State.status``."""
LINK, CPU = 0, 1
"""Values of ``State.side``: who supplies a missing expert."""
DROPPED = -1
"""Value in ``State.executed_ids``: nothing is executed for this (token, rank)."""
NEVER = 2**62
"""Value of ``State.next_use`` for an expert that is not demanded again."""
MAX_LOOKAHEAD = 3
"""How many layers ahead a prediction may reach."""

UInt1 = Annotated[NDArray[np.uint8], "u1", 1]
UInt1x2 = Annotated[NDArray[np.uint8], "u1", 2]
Int4 = Annotated[NDArray[np.int32], "i4", 1]
Int4x2 = Annotated[NDArray[np.int32], "i4", 2]
Int8 = Annotated[NDArray[np.int64], "i8", 1]
Int8x2 = Annotated[NDArray[np.int64], "i8", 2]
Float4 = Annotated[NDArray[np.float32], "f4", 1]
Float4x2 = Annotated[NDArray[np.float32], "f4", 2]
Float4x3 = Annotated[NDArray[np.float32], "f4", 3]
Float8x2 = Annotated[NDArray[np.float64], "f8", 2]


@dataclass
class State:
    """What a rule may read, and the few arrays it may write.

    B tokens are in the step, K experts per token, E experts and L MoE layers in the model; arrays are allocated for
    the largest step, so loop to the counters (``num_tokens`` ...), never to the array's length. The compiled engine
    sees the same names; a rule's hand-worked test builds this class with plain numpy arrays.

    A rule WRITES only: ``priority`` (eviction); ``predicted``, ``num_predicted`` (prediction); ``prefetch_layer``,
    ``prefetch_expert``, ``num_prefetch`` (prefetch); ``executed_ids`` (substitution); ``side``, ``order``
    (assignment); and its own ``memory``.
    """

    num_layers: int
    num_experts: int
    num_ranks: int
    """K: experts the router picks per token."""
    seed: int

    layer: int
    """MoE layer of the current layer step, from 0."""
    now: int
    """Counts layer steps from 1: the only notion of time a rule has."""
    phase: int
    """PREFILL or DECODE."""
    num_tokens: int
    """B of the current step."""
    has_scores: int
    """1 if ``scores`` holds the gate scores of the trace."""

    ids: Int4x2
    """[B, K] experts the router picked, best first."""
    weights: Float4x2
    """[B, K] their weights; NaN where the trace has none."""
    scores: Float4x2
    """[B, E] gate scores: unbiased, sum 1."""
    lookahead: Float4x2
    """[B, E] gate of layer + 1 applied early, as recorded: sum 1."""

    status: UInt1x2
    """[L, E] ABSENT, IN_FLIGHT or RESIDENT."""
    shield: UInt1x2
    """[L, E] not 0: may not be evicted now."""
    next_use: Int8x2
    """[L, E] ``now`` of the next layer step whose router demands the expert, NEVER if none (needs 'future')."""
    priority: Float8x2
    """[L, E] the engine evicts the lowest (priority, layer, expert) that is not shielded."""

    num_demand: int
    demand: Int4
    """[num_demand] distinct experts the router demands, by last touch (token by token, best rank first)."""

    executed_ids: Int4x2
    """[B, K] experts to execute instead of ``ids``; DROPPED for none."""
    num_executed: int
    executed: Int4
    """[num_executed] distinct experts executed, in order of their last touch."""
    executed_tokens: Int4
    """[num_executed] how many tokens each of them serves."""

    num_missing: int
    missing: Int4
    """[num_missing] executed experts that are neither resident nor in flight."""
    missing_importance: Float4
    """[num_missing] highest gate score (else weight) any token gives the expert."""
    missing_load_ns: Int8
    """[num_missing] what copying the expert over the link costs."""
    missing_cpu_ns: Int8
    """[num_missing] what computing it on the CPU costs."""
    side: UInt1
    """[num_missing] LINK or CPU, written by assignment."""
    order: Int4
    """[num_missing] indices into ``missing`` in the order in which they are served, written by assignment."""

    num_predicted: int
    """How many layers ahead were predicted this time (0: nothing)."""
    predicted: Float4x3
    """[MAX_LOOKAHEAD, B, E] predicted gate scores of layer + 1, + 2, ..."""

    num_prefetch: int
    prefetch_layer: Int4
    """[num_prefetch] target layers in the order in which to fetch."""
    prefetch_expert: Int4
    """[num_prefetch] experts to fetch."""


def array_fields(num_layers: int, num_experts: int, num_ranks: int, max_tokens: int) -> dict[str, NDArray[Any]]:
    """Freshly allocated arrays of ``State`` by field name: zero, except next_use (NEVER)."""
    layers, experts, ranks, tokens = num_layers, num_experts, num_ranks, max_tokens
    per_expert, per_slot = (experts,), (layers, experts)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "ids": ((tokens, ranks), np.int32),
        "weights": ((tokens, ranks), np.float32),
        "scores": ((tokens, experts), np.float32),
        "lookahead": ((tokens, experts), np.float32),
        "status": (per_slot, np.uint8),
        "shield": (per_slot, np.uint8),
        "next_use": (per_slot, np.int64),
        "priority": (per_slot, np.float64),
        "demand": (per_expert, np.int32),
        "executed_ids": ((tokens, ranks), np.int32),
        "executed": (per_expert, np.int32),
        "executed_tokens": (per_expert, np.int32),
        "missing": (per_expert, np.int32),
        "missing_importance": (per_expert, np.float32),
        "missing_load_ns": (per_expert, np.int64),
        "missing_cpu_ns": (per_expert, np.int64),
        "side": (per_expert, np.uint8),
        "order": (per_expert, np.int32),
        "predicted": ((MAX_LOOKAHEAD, tokens, experts), np.float32),
        "prefetch_layer": ((MAX_LOOKAHEAD * experts,), np.int32),
        "prefetch_expert": ((MAX_LOOKAHEAD * experts,), np.int32),
    }
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    arrays["next_use"][:] = NEVER
    return arrays


def plain_state(num_layers: int, num_experts: int, num_ranks: int, max_tokens: int, seed: int = 0) -> State:
    """A State of plain numpy arrays, for tests of rules and for reading them in a debugger."""
    counters = dict.fromkeys(
        (
            "layer",
            "phase",
            "num_tokens",
            "has_scores",
            "num_demand",
            "num_executed",
            "num_missing",
            "num_predicted",
            "num_prefetch",
        ),
        0,
    )
    arrays = array_fields(num_layers, num_experts, num_ranks, max_tokens)
    sizes: dict[str, int] = {
        "num_layers": num_layers,
        "num_experts": num_experts,
        "num_ranks": num_ranks,
        "seed": seed,
        "now": 1,
    }
    values: dict[str, Any] = sizes | counters | arrays
    return State(**values)
