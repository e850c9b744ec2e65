"""The engine's bookkeeping of one device: what the cache holds, what is queued and copied, the plan of a layer step."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from policies.state import Float4x3, Int4, Int4x2, Int4x3, Int8, Int8x2, UInt1
from sim.engine.decision.counters import COUNTERS

Float4x4 = Annotated[NDArray[np.float32], "f4", 4]
Float8 = Annotated[NDArray[np.float64], "f8", 1]
Int8x3 = Annotated[NDArray[np.int64], "i8", 3]
Ids = NDArray[np.int32]
Scores = NDArray[np.float32]
Times = NDArray[np.int64]


class Cache:
    """What compiled decisions read and write beside ``policies.state.State``; rules do not see it.

    L MoE layers, E experts per layer, K experts per token, B tokens in a step, P pools of bytes. A key is
    layer * E + expert. Flags are 0 or 1. Tests and drivers read the arrays by these names in ``Device.cache_arrays``.
    """

    has_touch: int
    """The policy's eviction rule has this decision of its own, so that it is called; likewise the next seven."""
    has_refresh: int
    has_admit: int
    has_bypass: int
    has_predict: int
    has_choose: int
    has_substitute: int
    has_assign: int
    needs_importance: int
    """The assignment rule asks for ``State.missing_importance``."""
    predicts_at_end: int
    """The prediction exists only at the end of the layer."""
    foresees: int
    """Prediction and prefetch decide at the begin of a step that verifies drafts, too."""
    holds_overflow: int
    """cache.overflow=hold: a step may hold more than the capacity, and is trimmed when it ends."""
    is_static: int
    """What is resident never changes: by the eviction rule, or in a step that goes past the cache."""
    rule_is_static: int
    """... by the eviction rule."""
    goes_past: int
    """Which prompts go past the cache: NEVER, ON_OVERFLOW or ALWAYS."""
    streams: int
    """Those that do are streamed layer by layer."""
    streamed: int
    """The step is one of them."""
    over_bytes: int
    """The most by which experts have ever occupied more than their pool has where its bytes change from step to
    step."""
    after_step: int
    """What stays is decided over the layer step as a whole: see ``policies.base.Eviction``."""
    offers_late: int
    """The assignment rule may give the CPU an expert that is still on the link."""
    cancels_late: int
    """A prefetch on the link whose layer has come stops unless the step waits for it."""
    promotes: int
    """The prefetch rule is one of background admission: ``policies.base.Prefetch.promotes``."""
    admits: int
    """It may choose experts of this layer for later steps at its gate: ``policies.base.Prefetch.admits``."""
    fetches_early: int
    """Copies that no demand asked for may hold slots."""
    link_idle: int
    """Prefetches are queued only as far as they fit into the time in which the link stands idle."""
    has_low: int
    """The substitution rule may ask for experts in low precision."""
    num_chunks: int
    """Chunks of a prefetch copy."""
    has_host: int
    """Storage lies behind host memory, which may lack experts: see ``sim.engine.decision.host``."""
    cpu_reads: int
    """The CPU computes what lies in host memory, and waits for what it lacks; 0: host memory lies behind the store."""
    host_is_lru: int
    """What is served from host memory leaves it last; else what came last."""
    host_exclusive: int
    """What gets a slot leaves host memory."""
    host_capacity: int
    """Bytes for experts in host memory."""
    host_used: int
    host_in_bytes: int
    """Bytes that ever came to host memory from storage, from slots or at the start."""
    host_out_bytes: int
    """... that left it."""
    num_reads: int
    """Experts in ``read_queue``."""
    copy_is_read: int
    """Storage reads the expert on the link: its pieces go on as they arrive."""
    launch_ns: int
    """Launches of one expert, contained in ``expert_ns``."""

    num_ready: int
    """First of six fields that make the plan of a layer step: experts of ``gpu_queue`` that are there already."""
    num_gpu: int
    """Experts in ``gpu_queue``."""
    num_cpu: int
    """Experts in ``cpu_queue``."""
    num_demand_copies: int
    """Copies in ``demand_queue``."""
    may_release: int
    """An expert may hold a staging slot, or a slot it may not keep, which it releases once executed."""
    stops_copy: int
    """The copy on the link stops now: nobody waits for it."""

    copy_layer: int
    """First of five fields that describe the copy on the link, as ``device.Copy`` holds them."""
    copy_expert: int
    copy_kind: int
    """FULL, CHUNK or LOW_COPY."""
    copy_is_staged: int
    """It goes to a staging slot."""
    back_ns: int
    """What writing back the victims of this copy takes."""
    chunks_left: int
    """Chunks of the copy on the link that have not arrived."""
    copy_promotes: int
    """The copy on the link, where it is a prefetch, is for later steps of its layer: nothing protects it."""
    paused_layer: int
    """The prefetch that waits between two chunks."""
    paused_expert: int
    paused_chunks: int
    """Chunks that it still needs; 0: nothing is paused."""
    paused_promotes: int
    """It is for later steps of its layer."""
    demand_head: int
    demand_tail: int
    prefetch_head: int
    prefetch_tail: int
    staging_free: int
    link_left_ns: int
    """Written by the engine before a lookup and before a layer ends: what the copy on the link, or its chunk, still
    takes; 0: there is none."""
    link_copy_ns: int
    """... and what it takes in all."""
    overflows: int
    """The demand of the layer step is above the capacity."""
    holding_transient: int
    """Executed experts that must release their slot but have not run yet."""
    tick: int
    """Counts calls of ``list_distinct``."""

    pool_of: Int8
    """[L] pool of bytes that a layer's experts share."""
    capacity: Int8
    """[P] bytes."""
    used: Int8
    """[P] bytes resident or in flight."""
    size: Int8
    """[L] bytes of one expert."""
    low_size: Int8
    """[L] bytes of one expert in low precision."""
    write_back_ns: Int8
    """[2L] copying one victim back to the host, then one in low precision; empty: victims are not written back."""
    low_load_ns: Int8
    """[L] one low-precision copy, for assignment rules."""
    expert_ns: Int8x2
    """[L, B+1] one expert on the GPU by tokens, launches included."""
    cpu_ns: Int8x2
    """[L, B+1] one expert on the CPU by tokens; 0 rows if the hardware has none."""
    dequantise_ns: Int8
    """[L] added to an expert that is executed in low precision."""
    gap_ns: Int8
    """[L] expected time from the end of a layer to the next lookup; empty without a clock."""
    layer_ns: Int8
    """[L] expected time of a layer without routed experts, for ``State.window_ns``; empty without a clock."""

    step_ids: Int4x3
    """[B, L, K] what ``load`` gave: the router's choice of all layers of the step. What is not wanted has no rows."""
    step_weights: Float4x3
    """[B, L, K]"""
    step_scores: Float4x3
    """[B, L, E]"""
    step_lookahead: Float4x4
    """[B, L-1, D, E]"""
    step_next_use: Int8x3
    """[B, L, K]"""

    status: UInt1
    """[L*E] the state's grid of that name, flat; so the next two."""
    shield: UInt1
    priority: Float8
    held: Int8
    """[L*E] bytes that a resident or arriving expert occupies."""
    members: Int4x2
    """[P, most] keys that occupy a pool."""
    member_count: Int8
    """[P]"""
    place: Int4
    """[L*E] index of a key in ``members``."""
    demand_queue: Int4
    """[E] experts of the current layer."""
    prefetch_queue: Int4
    """[L*E] keys."""
    queued: UInt1
    """[L*E] the key waits in the prefetch queue."""
    prefetched: UInt1
    """[L*E] the key came by prefetch and was not demanded yet."""
    prefetched_count: Int8
    """[L] how many of a layer."""
    transient: UInt1
    """[E] executed in this layer step but not kept: demand above the capacity."""
    staged: UInt1
    """[E] occupies a staging slot."""
    runs_low: UInt1
    """[E] executed in low precision in this layer step."""
    executed_at: Int8
    """[E] ``State.now`` of the last layer step that executes the expert."""
    on_cpu_at: Int8
    """[E] ... that executes it on the CPU."""
    replaced_at: Int8
    """[E] ... that executes another expert in its place."""
    dropped_at: Int8
    """[L*E] ... in which the expert has to leave, or may not come (``after_step``)."""
    in_host: UInt1
    """[L*E] the expert lies in host memory."""
    host_before: Int4
    """[L*E + 1] ring of keys in the order in which they leave host memory, sentinel last; where there is none, one."""
    host_behind: Int4
    """[L*E + 1]"""
    read_at: Int8
    """[E] ``State.now`` of the last layer step whose demand for the expert storage had to read."""
    read_queue: Int4
    """[E] those of this layer step, in the order in which they are read."""
    serving: Int4
    """[E] indices of ``State.missing`` in the order in which they are served, where ``has_host``."""
    through_ns: Int8
    """[L] an expert from storage to the GPU, for assignment rules; empty without storage."""
    read_ns: Int8
    """[L] ... to host memory."""
    outcome: UInt1
    """[num_demand] of each demanded expert: HIT ... DEGRADE."""
    gpu_queue: Int4
    """[E] executed on the GPU: ready ones, then in order of arrival."""
    run_ns: Int8
    """[E] what each of them takes, without launches."""
    cpu_queue: Int4
    """[E] executed on the CPU."""
    tokens_of: Int4
    """[E] tokens that each executed expert of this layer step serves."""
    seen: Int8
    """[E] scratch of ``list_distinct`` and ``weigh_missing``."""
    counts: Int8
    """Running counters, see ``counters.COUNTERS``."""
    lost: Float8
    """[3] share of weight not executed as routed, summed; token-layers summed; of the first the share executed in low
    precision."""


def allocate(num_layers: int, num_experts: int, num_pools: int) -> dict[str, NDArray[Any]]:
    """Zeroed bookkeeping arrays of a ``Cache``; pools, sizes, costs and the state's grids are the caller's."""
    experts, grid = (num_experts,), (num_layers * num_experts,)
    most = num_experts if num_pools == num_layers else num_layers * num_experts
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "step_ids": ((0, 0, 0), np.int32),
        "step_weights": ((0, 0, 0), np.float32),
        "step_scores": ((0, 0, 0), np.float32),
        "step_lookahead": ((0, 0, 0, 0), np.float32),
        "step_next_use": ((0, 0, 0), np.int64),
        "held": (grid, np.int64),
        "members": ((num_pools, most), np.int32),
        "member_count": ((num_pools,), np.int64),
        "place": (grid, np.int32),
        "demand_queue": (experts, np.int32),
        "prefetch_queue": (grid, np.int32),
        "queued": (grid, np.uint8),
        "prefetched": (grid, np.uint8),
        "prefetched_count": ((num_layers,), np.int64),
        "transient": (experts, np.uint8),
        "staged": (experts, np.uint8),
        "runs_low": (experts, np.uint8),
        "executed_at": (experts, np.int64),
        "on_cpu_at": (experts, np.int64),
        "replaced_at": (experts, np.int64),
        "dropped_at": (grid, np.int64),
        "in_host": (grid, np.uint8),
        "host_before": ((num_layers * num_experts + 1,), np.int32),
        "host_behind": ((num_layers * num_experts + 1,), np.int32),
        "read_at": (experts, np.int64),
        "read_queue": (experts, np.int32),
        "serving": (experts, np.int32),
        "outcome": (experts, np.uint8),
        "gpu_queue": (experts, np.int32),
        "run_ns": (experts, np.int64),
        "cpu_queue": (experts, np.int32),
        "tokens_of": (experts, np.int32),
        "seen": (experts, np.int64),
        "counts": ((len(COUNTERS),), np.int64),
        "lost": ((3,), np.float64),
    }
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
