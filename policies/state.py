"""The state a rule sees: arrays and counters of one device at one layer step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from traces.format.trace import DECODE as DECODE
from traces.format.trace import PREFILL as PREFILL

ABSENT, IN_FLIGHT, RESIDENT, LOW = 0, 1, 2, 3
"""Values of ``State.status``: ``RESIDENT`` in full precision, ``LOW`` in low precision only."""
LINK, CPU = 0, 1
"""Values of ``State.side``: who supplies a missing expert."""
DROPPED = -1
"""Value in ``State.executed_ids``: nothing is executed for this (token, rank)."""
NEVER = 2**62
"""Value of ``State.next_use`` for an expert that is not demanded again."""
MAX_LOOKAHEAD = 3
"""How many layers ahead recorded or learned scores (``State.lookahead``) may reach."""

UInt1 = Annotated[NDArray[np.uint8], "u1", 1]
UInt1x2 = Annotated[NDArray[np.uint8], "u1", 2]
Int4 = Annotated[NDArray[np.int32], "i4", 1]
Int4x2 = Annotated[NDArray[np.int32], "i4", 2]
Int8 = Annotated[NDArray[np.int64], "i8", 1]
Int8x2 = Annotated[NDArray[np.int64], "i8", 2]
Float4 = Annotated[NDArray[np.float32], "f4", 1]
Float4x2 = Annotated[NDArray[np.float32], "f4", 2]
Float4x3 = Annotated[NDArray[np.float32], "f4", 3]
Int4x3 = Annotated[NDArray[np.int32], "i4", 3]
Float8x2 = Annotated[NDArray[np.float64], "f8", 2]


@dataclass
class State:
    """What a rule may read, and the few arrays it may write.

    B tokens are in the step, K experts per token, E experts and L MoE layers in the model; arrays are allocated for
    the largest step, so loop to the counters (``num_tokens`` ...), never to the array's length. The compiled engine
    sees the same names; a rule's hand-worked test builds this class with plain numpy arrays.

    A rule WRITES only: ``priority`` (eviction); ``predicted``, ``num_predicted``, ``num_predicted_tokens``
    (prediction); ``prefetch_layer``, ``prefetch_expert``, ``num_prefetch`` (prefetch); ``executed_ids``, ``degraded``
    (substitution); ``side``, ``order`` (assignment); and its own ``memory``.
    """

    num_layers: int
    num_experts: int
    num_ranks: int
    """K: most experts the router picks per token."""
    seed: int

    layer: int
    """MoE layer of the current layer step, from 0."""
    now: int
    """Counts layer steps from 1: the only notion of time a rule has."""
    phase: int
    """PREFILL or DECODE."""
    step: int
    """Index of the forward pass, from 0."""
    group: int
    """Index of the lockstep batch: it changes when new requests begin."""
    num_tokens: int
    """B of the current step."""
    num_requests: int
    """Requests whose rows the step holds: fewer than B where it prefills, or verifies drafts behind each row."""
    has_scores: int
    """1 if ``scores`` holds the gate scores of the trace."""

    token_ranks: Int4
    """[B] how many experts the router picked for each token: K, or fewer (none, too) where the trace says so."""
    ids: Int4x2
    """[B, K] experts the router picked, best first; DROPPED from rank ``token_ranks`` of the token on."""
    weights: Float4x2
    """[B, K] their weights; NaN where the trace has none."""
    scores: Float4x2
    """[B, E] gate scores: unbiased, sum 1."""
    num_lookahead: int
    """How many layers ahead ``lookahead`` reaches from this layer: 0 to MAX_LOOKAHEAD."""
    lookahead: Float4x3
    """[num_lookahead, B, E] scores of layer + 1, + 2, ... known at this layer: a gate applied early, as recorded, or a
    trained network's forecast (needs 'lookahead_before', 'lookahead_after' or 'forecast')."""
    routed: Int4x3
    """[B, L, K] the router's choice in every layer of this step, DROPPED at ranks without. Later layers are the future:
    oracles only (needs 'oracle')."""

    status: UInt1x2
    """[L, E] ABSENT, IN_FLIGHT, RESIDENT or LOW."""
    shield: UInt1x2
    """[L, E] not 0: may not be evicted now."""
    free_slots: int
    """How many more experts of this layer the cache has room for at this lookup without evicting any."""
    next_use: Int8x2
    """[L, E] ``now`` of the next layer step whose router demands the expert, NEVER if none (needs 'future')."""
    priority: Float8x2
    """[L, E] the engine evicts the lowest (priority, layer, expert) that is not shielded."""

    num_demand: int
    demand: Int4
    """[num_demand] distinct experts the router demands, by last touch (token by token, best rank first)."""

    executed_ids: Int4x2
    """[B, K] experts to execute instead of ``ids``; DROPPED for none."""
    degraded: UInt1
    """[E] 1: if the expert is missing, a low-precision copy will do in this layer step. Starts as 0."""
    num_executed: int
    executed: Int4
    """[num_executed] distinct experts executed, in order of their last touch."""
    executed_tokens: Int4
    """[num_executed] how many tokens each of them serves."""
    executed_gpu_ns: Int8
    """[num_executed] what computing it on the GPU takes, launches included."""

    num_missing: int
    missing: Int4
    """[num_missing] executed experts that are neither resident nor in flight."""
    missing_tokens: Int4
    """[num_missing] how many tokens each of them serves."""
    missing_importance: Float4
    """[num_missing] highest gate score (else weight) any token gives the expert."""
    missing_load_ns: Int8
    """[num_missing] what copying the expert over the link costs."""
    missing_cpu_ns: Int8
    """[num_missing] what computing it on the CPU costs."""
    missing_gpu_ns: Int8
    """[num_missing] what computing it on the GPU costs once it is there."""
    side: UInt1
    """[num_missing] LINK or CPU, written by assignment."""
    order: Int4
    """[num_missing] indices into ``missing`` in the order in which they are served, written by assignment."""

    load_ns: Int8
    """[L] what one copy of an expert of each layer takes on an idle link."""
    gpu_ns: Int8x2
    """[L, B+1] what computing one expert of each layer on the GPU takes by tokens, launches included."""
    cpu_ns: Int8x2
    """[L, B+1] what computing it on the CPU takes by tokens; no rows if the hardware has no CPU (needs 'cpu')."""
    link_left_ns: int
    """What the copy that is on the link at this lookup, or its chunk, still takes; 0: the link is free."""
    late_left_ns: int
    """What the one prefetch that is under way at this lookup, on the link or paused, still takes in all."""
    window_ns: int
    """Time the link is expected to stand idle until the next layer looks up its experts, with this layer's demand
    copies already taken off; 0 in a replay without a clock."""

    num_predicted: int
    """How many layers ahead were predicted this time (0: nothing)."""
    num_predicted_tokens: int
    """Rows of ``predicted`` that count: starts as ``num_tokens``; 1 where one prediction speaks for the whole step."""
    predicted: Float4x3
    """[depth of the prediction, num_predicted_tokens, E] predicted scores of layer + 1, + 2, ..."""

    num_prefetch: int
    prefetch_layer: Int4
    """[num_prefetch] target layers in the order in which to fetch."""
    prefetch_expert: Int4
    """[num_prefetch] experts to fetch."""


def array_fields(
    num_layers: int, num_experts: int, num_ranks: int, max_tokens: int, depth: int = MAX_LOOKAHEAD
) -> dict[str, NDArray[Any]]:
    """Freshly allocated arrays of ``State`` by field name: zero, except next_use (NEVER) and token_ranks (K).

    ``depth`` is how many layers ahead the policy predicts.
    """
    layers, experts, ranks, tokens = num_layers, num_experts, num_ranks, max_tokens
    per_expert, per_slot = (experts,), (layers, experts)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "token_ranks": ((tokens,), np.int32),
        "ids": ((tokens, ranks), np.int32),
        "weights": ((tokens, ranks), np.float32),
        "scores": ((tokens, experts), np.float32),
        "lookahead": ((MAX_LOOKAHEAD, tokens, experts), np.float32),
        "routed": ((0, layers, ranks), np.int32),
        "status": (per_slot, np.uint8),
        "shield": (per_slot, np.uint8),
        "next_use": (per_slot, np.int64),
        "priority": (per_slot, np.float64),
        "demand": (per_expert, np.int32),
        "executed_ids": ((tokens, ranks), np.int32),
        "executed": (per_expert, np.int32),
        "degraded": (per_expert, np.uint8),
        "executed_tokens": (per_expert, np.int32),
        "executed_gpu_ns": (per_expert, np.int64),
        "missing": (per_expert, np.int32),
        "missing_tokens": (per_expert, np.int32),
        "missing_importance": (per_expert, np.float32),
        "missing_load_ns": (per_expert, np.int64),
        "missing_cpu_ns": (per_expert, np.int64),
        "missing_gpu_ns": (per_expert, np.int64),
        "load_ns": ((layers,), np.int64),
        "gpu_ns": ((layers, tokens + 1), np.int64),
        "cpu_ns": ((layers, tokens + 1), np.int64),
        "side": (per_expert, np.uint8),
        "order": (per_expert, np.int32),
        "predicted": ((depth, tokens, experts), np.float32),
        "prefetch_layer": (((depth + 1) * experts,), np.int32),
        "prefetch_expert": (((depth + 1) * experts,), np.int32),
    }
    arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    arrays["next_use"][:] = NEVER
    arrays["token_ranks"][:] = ranks
    return arrays


def plain_state(
    num_layers: int, num_experts: int, num_ranks: int, max_tokens: int, seed: int = 0, depth: int = MAX_LOOKAHEAD
) -> State:
    """A State of plain numpy arrays, for tests of rules and for reading them in a debugger."""
    sizes = {"num_layers": num_layers, "num_experts": num_experts, "num_ranks": num_ranks, "seed": seed, "now": 1}
    arrays = array_fields(num_layers, num_experts, num_ranks, max_tokens, depth)
    values: dict[str, Any] = {field.name: 0 for field in fields(State)} | sizes | arrays
    return State(**values)
