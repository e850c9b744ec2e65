"""The compiled counterparts of ``policies.state.State`` and of the engine's own bookkeeping, as numba structs."""

from __future__ import annotations

import warnings
from typing import Any, get_args, get_type_hints

import numpy as np
from numba import b1, f4, f8, i4, i8, types, u1
from numba.core.errors import NumbaExperimentalFeatureWarning
from numpy.typing import NDArray

from policies.state import State
from sim.engine.decision.counters import COUNTERS, PLAN
from sim.engine.decision.struct_views import View, caster

warnings.filterwarnings("ignore", category=NumbaExperimentalFeatureWarning)  # first-class functions: measured, tested

DTYPES = {"u1": u1, "i4": i4, "i8": i8, "f4": f4, "f8": f8}


def _numba_type(hint: Any) -> Any:
    if hint is int:
        return i8
    _, dtype, ndim = get_args(hint)
    return types.Array(DTYPES[dtype], ndim, "C")


STATE_FIELDS = {name: _numba_type(hint) for name, hint in get_type_hints(State, include_extras=True).items()}
STATE = View("State", STATE_FIELDS)

PART = View("Part", {})
"""The ``self`` of a decision: its knobs, which only the decision itself knows by name."""
MEMORY = f8[::1]
RULE = types.FunctionType(types.void(PART, STATE, MEMORY))
REFRESH = types.FunctionType(types.void(PART, STATE, MEMORY, i8))
ADMIT = types.FunctionType(types.void(PART, STATE, MEMORY, i8, i8, b1))
BYPASS = types.FunctionType(b1(PART, STATE, MEMORY, i8, i8, i8))

PART_NAMES = ("eviction", "prediction", "prefetch", "substitution", "assignment")
DECISIONS = {
    "touch": ("eviction", RULE),
    "refresh": ("eviction", REFRESH),
    "admit": ("eviction", ADMIT),
    "bypass": ("eviction", BYPASS),
    "predict": ("prediction", RULE),
    "choose": ("prefetch", RULE),
    "substitute": ("substitution", RULE),
    "assign": ("assignment", RULE),
}
"""Decision -> (the part it belongs to, its compiled signature)."""

RULES = View(
    "Rules",
    dict.fromkeys(PART_NAMES, PART)
    | {f"{part}_memory": MEMORY for part in PART_NAMES}
    | {name: signature for name, (_, signature) in DECISIONS.items()},
)

IDS, SCORES, AHEAD, TIMES = i4[:, :, ::1], f4[:, :, ::1], f4[:, :, :, ::1], i8[:, :, ::1]
"""Router output of the B rows of a step: ids and weights [B, L, K], scores [B, L, E], lookahead [B, L-1, D, E],
next use [B, L, K]. What is not wanted has no rows."""

MACHINE_INTS = (
    *DECISIONS,  # 1: the policy has this decision, 0: it is the base class's nothing
    "needs_importance",
    "hold",  # 1: cache.overflow=hold
    "static",  # 1: what is resident never changes
    "predict_at_end",  # 1: the prediction exists only at the end of the layer
    "launch_ns",  # of one expert, contained in expert_ns
    "chunks",  # pieces of a prefetch copy
    "staging_free",
    "tick",  # counts calls of ``distinct``
    "holding_transient",  # executed experts that must give their slot up but have not run yet
    "demand_head",
    "demand_tail",
    "prefetch_head",
    "prefetch_tail",
    "overflow",  # 1: the demand of the layer step is above the capacity
    "copy_layer",  # the copy on the link
    "copy_expert",
    "copy_staged",  # 1: it goes to a staging slot
    "copy_kind",  # FULL, PIECE or LOW
    "pieces_left",  # of the copy on the link
    "paused_layer",
    "paused_expert",
    "paused_pieces",  # 0: nothing is paused
    "back_ns",  # what writing the victims of the starting copy back takes
)
MACHINE_ARRAYS = {
    "pool_of": i8[::1],  # [L] which pool of bytes a layer's experts share
    "capacity": i8[::1],  # [P] bytes
    "used": i8[::1],  # [P] bytes resident or in flight
    "size": i8[::1],  # [L] bytes of one expert
    "low_size": i8[::1],  # [L] bytes of one expert in low precision
    "write_back_ns": i8[::1],  # [2L] what copying a victim home takes, then one in low precision; 0 cells: not done
    "low_load_ns": i8[::1],  # [L] cost of a low-precision copy, for assignment rules
    "expert_ns": i8[:, ::1],  # [L, B+1] one expert on the GPU by tokens, launches included
    "cpu_ns": i8[:, ::1],  # [L, B+1] one expert on the CPU by tokens; 0 rows if the hardware has none
    "dequant_ns": i8[::1],  # [L] added to an expert that is executed in low precision
    "layer_ns": i8[::1],  # [L] expected time of a layer without routed experts, for ``window_ns``
    "step_ids": IDS,
    "step_weights": SCORES,
    "step_scores": SCORES,
    "step_lookahead": AHEAD,
    "step_next_use": TIMES,
    "status": u1[::1],  # [L*E] views of the state's grids
    "shield": u1[::1],
    "priority": f8[::1],
    "held": i8[::1],  # [L*E] bytes that a resident or arriving expert occupies
    "members": i4[:, ::1],  # [P, most] keys layer * E + expert that occupy a pool
    "member_count": i8[::1],  # [P]
    "place": i4[::1],  # [L*E] index in ``members``
    "demand_queue": i4[::1],  # [E]
    "prefetch_queue": i4[::1],  # [L*E] keys
    "queued": u1[::1],  # [L*E] 1: waits in the prefetch queue
    "prefetched": u1[::1],  # [L*E] 1: came by prefetch and was not demanded yet
    "prefetched_count": i8[::1],  # [L] how many of a layer
    "transient": u1[::1],  # [E] 1: executed this layer step but not kept (demand above capacity)
    "staged": u1[::1],  # [E] 1: sits in a staging slot
    "runs_low": u1[::1],  # [E] 1: executed in low precision in this layer step
    "executed_at": i8[::1],  # [E] ``now`` of the last layer step that executes it
    "on_cpu_at": i8[::1],  # [E] ... on the CPU
    "replaced_at": i8[::1],  # [E] ... that executes another expert in its place
    "outcome": u1[::1],  # [num_demand] of each demanded expert
    "gpu_queue": i4[::1],  # [E] executed on the GPU: ready ones, then in order of arrival
    "run_ns": i8[::1],  # [E] what each of them takes, without launches
    "cpu_queue": i4[::1],  # [E] executed on the CPU
    "tokens_of": i4[::1],  # [E] tokens served by each executed expert in this layer step
    "seen": i8[::1],  # [E] scratch of ``distinct``
    "plan": i8[::1],  # results of begin, see PLAN
    "counts": i8[::1],  # running counters, see COUNTERS
    "lost": f8[::1],  # [0] summed share of weight not executed as routed, [1] token-layers summed
}
MACHINE = View("Machine", dict.fromkeys(MACHINE_INTS, i8) | MACHINE_ARRAYS)


def machine_arrays(num_layers: int, num_experts: int, num_pools: int) -> dict[str, NDArray[Any]]:
    """Zeroed bookkeeping arrays of the sizes noted above; pools, sizes, costs and views are the caller's."""
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
        "outcome": (experts, np.uint8),
        "gpu_queue": (experts, np.int32),
        "run_ns": (experts, np.int64),
        "cpu_queue": (experts, np.int32),
        "tokens_of": (experts, np.int32),
        "seen": (experts, np.int64),
        "plan": ((len(PLAN),), np.int64),
        "counts": ((len(COUNTERS),), np.int64),
        "lost": ((2,), np.float64),
    }
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}


CLOCK_INTS = (
    "write_back",  # how victims go home: see sim.engine.clocks.timeline_log
    "call_ns",  # host time to issue a copy
    "layer_launch_ns",
    "expert_launch_ns",
    "readback_ns",
    "sync_ns",
    "host_ns",
    "kv_ps_per_token",
    "pair_ps",
    "now_ns",  # of the GPU
    "link_state",
    "link_end_ns",
    "link_begin_ns",
    "back_end_ns",
    "cpu_left",  # experts the CPU has still to finish in this layer step
    "cpu_next",  # index of the one it computes
    "cpu_end_ns",
    "link_busy_ns",
    "cpu_busy_ns",
    "lean",  # 1: decode steps of one token may take the short way
    "logs",  # 1: a timeline is kept
    "log_size",
)
CLOCK_ARRAYS = {
    "copy_ns": TIMES,  # [3, 2, L] by kind of copy, whether the CPU computes, layer
    "cpu_ns": TIMES,  # [2, L, B+1] by whether the link copies, layer, tokens; 0 layers if the hardware has no CPU
    "expert_ns": i8[:, ::1],  # [L, B+1] without launches
    "shared_ns": i8[:, ::1],  # [L, B+1]
    "attention_ns": i8[:, ::1],  # [L, B+1] without K and V
    "head_ns": i8[::1],  # [B+1]
    "arrived_at": i8[::1],  # [E] ``now`` of the layer step in which the expert arrived
    "parts": i8[::1],  # see PARTS
    "log": i8[:, ::1],  # [n, 5] slices of the timeline; 0 rows: none is kept
}
CLOCK = View("Clock", dict.fromkeys(CLOCK_INTS, i8) | CLOCK_ARRAYS)


as_state, as_machine, as_rules, as_clock = caster(STATE), caster(MACHINE), caster(RULES), caster(CLOCK)
"""Take an address for a struct."""
