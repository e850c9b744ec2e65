"""The compiled counterparts of ``policies.state.State`` and of the engine's own bookkeeping, as numba structs."""

from __future__ import annotations

import warnings
from typing import Any, get_args, get_type_hints

import numpy as np
from numba import b1, f4, f8, i4, i8, njit, types, u1
from numba.core.errors import NumbaExperimentalFeatureWarning
from numba.experimental import structref
from numpy.typing import NDArray

from policies.state import State
from sim.engine.counters import COUNTERS, PLAN

warnings.filterwarnings("ignore", category=NumbaExperimentalFeatureWarning)  # first-class functions: measured, tested

DTYPES = {"u1": u1, "i4": i4, "i8": i8, "f4": f4, "f8": f8}


def _numba_type(hint: Any) -> Any:
    if hint is int:
        return i8
    _, dtype, ndim = get_args(hint)
    return types.Array(DTYPES[dtype], ndim, "C")


class _Struct(types.StructRef):  # type: ignore[misc]
    def preprocess_fields(self, fields: Any) -> Any:
        return tuple((name, types.unliteral(field)) for name, field in fields)


@structref.register
class StateStruct(_Struct):
    """Numba type of State."""


@structref.register
class MachineStruct(_Struct):
    """Numba type of Machine."""


@structref.register
class ClockStruct(_Struct):
    """Numba type of Clock."""


@structref.register
class RulesStruct(_Struct):
    """Numba type of Rules."""


class _Proxy(structref.StructRefProxy):  # type: ignore[misc]
    def __new__(cls, *args: Any) -> Any:
        return structref.StructRefProxy.__new__(cls, *args)


class StateProxy(_Proxy):
    """A State that lives in compiled code; its arrays are shared with Python."""


class MachineProxy(_Proxy):
    """The engine's bookkeeping in compiled code; its arrays are shared with Python."""


class ClockProxy(_Proxy):
    """The clock of the compiled engine; its arrays are shared with Python."""


class RulesProxy(_Proxy):
    """Compiled decisions with their knobs and memories."""


structref.define_boxing(StateStruct, StateProxy)
structref.define_boxing(MachineStruct, MachineProxy)
structref.define_boxing(ClockStruct, ClockProxy)
structref.define_boxing(RulesStruct, RulesProxy)

STATE_FIELDS = {name: _numba_type(hint) for name, hint in get_type_hints(State, include_extras=True).items()}
STATE = StateStruct(list(STATE_FIELDS.items()))

KNOBS = MEMORY = f8[::1]
RULE = types.FunctionType(types.void(STATE, KNOBS, MEMORY))
REFRESH = types.FunctionType(types.void(STATE, KNOBS, MEMORY, i8))
ADMIT = types.FunctionType(types.void(STATE, KNOBS, MEMORY, i8, i8, b1))
BYPASS = types.FunctionType(b1(STATE, KNOBS, MEMORY, i8, i8, i8))

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

RULES = RulesStruct(
    [(name, signature) for name, (_, signature) in DECISIONS.items()]
    + [(f"{part}_{kind}", f8[::1]) for part in PART_NAMES for kind in ("knobs", "memory")]
)

IDS, SCORES, AHEAD, TIMES = i4[:, :, ::1], f4[:, :, ::1], f4[:, :, :, ::1], i8[:, :, ::1]
"""Router output of the B rows of a step: ids and weights [B, L, K], scores [B, L, E], lookahead [B, L-1, D, E],
next use [B, L, K]. What is not wanted has no rows."""

MACHINE_FLAGS = (
    *DECISIONS,  # 1: the policy has this decision, 0: it is the base class's nothing
    "needs_importance",
    "hold",  # 1: cache.overflow=hold
    "predict_at_end",  # 1: the prediction exists only at the end of the layer
    "chunks",  # pieces of a prefetch copy
    "staging_free",
)
MACHINE_INTS = (
    *MACHINE_FLAGS,
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
    "write_back_ns": i8[::1],  # [L] what copying a victim home takes
    "low_load_ns": i8[::1],  # [L] cost of a low-precision copy, for assignment rules
    "expert_ns": i8[:, ::1],  # [L, B+1] one expert on the GPU by tokens, launches included
    "cpu_ns": i8[:, ::1],  # [L, B+1] one expert on the CPU by tokens; 0 rows if the hardware has none
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
    "cpu_queue": i4[::1],  # [E] executed on the CPU
    "tokens_of": i4[::1],  # [E] tokens served by each executed expert in this layer step
    "seen": i8[::1],  # [E] scratch of ``distinct``
    "plan": i8[::1],  # results of begin, see PLAN
    "counts": i8[::1],  # running counters, see COUNTERS
    "lost": f8[::1],  # [0] summed share of weight not executed as routed, [1] token-layers summed
}
MACHINE = MachineStruct([(name, i8) for name in MACHINE_INTS] + list(MACHINE_ARRAYS.items()))


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
        "cpu_queue": (experts, np.int32),
        "tokens_of": (experts, np.int32),
        "seen": (experts, np.int64),
        "plan": ((len(PLAN),), np.int64),
        "counts": ((len(COUNTERS),), np.int64),
        "lost": ((2,), np.float64),
    }
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}


CLOCK_INTS = (
    "write_back",  # how victims go home: see sim.engine.timing
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
    "log_size",
)
CLOCK_ARRAYS = {
    "copy_ns": TIMES,  # [3, 2, L] by kind of copy, whether the CPU computes, layer
    "cpu_ns": TIMES,  # [2, L, B+1] by whether the link copies, layer, tokens; 0 layers if the hardware has no CPU
    "expert_ns": i8[:, ::1],  # [L, B+1] without launches
    "dequant_ns": i8[::1],  # [L] added to an expert in low precision
    "shared_ns": i8[:, ::1],  # [L, B+1]
    "attention_ns": i8[:, ::1],  # [L, B+1] without K and V
    "head_ns": i8[::1],  # [B+1]
    "arrived_at": i8[::1],  # [E] ``now`` of the layer step in which the expert arrived
    "parts": i8[::1],  # see PARTS
    "log": i8[:, ::1],  # [n, 5] slices of the timeline; 0 rows: none is kept
}
CLOCK = ClockStruct([(name, i8) for name in CLOCK_INTS] + list(CLOCK_ARRAYS.items()))


@njit(CLOCK(i8[::1], types.Tuple(list(CLOCK_ARRAYS.values()))), cache=True)
def new_clock(ints: Any, arrays: Any) -> Any:
    """A compiled Clock at time 0 from the first nine of ``CLOCK_INTS`` and ``CLOCK_ARRAYS`` in that order."""
    c = structref.new(CLOCK)
    c.write_back, c.call_ns, c.layer_launch_ns, c.expert_launch_ns = ints[0], ints[1], ints[2], ints[3]
    c.readback_ns, c.sync_ns, c.host_ns, c.kv_ps_per_token, c.pair_ps = ints[4], ints[5], ints[6], ints[7], ints[8]
    (
        c.copy_ns,
        c.cpu_ns,
        c.expert_ns,
        c.dequant_ns,
        c.shared_ns,
        c.attention_ns,
        c.head_ns,
        c.arrived_at,
        c.parts,
        c.log,
    ) = arrays
    return c


STATE_INTS = ("num_layers", "num_experts", "num_ranks", "seed", "has_scores")
STATE_ARRAYS = tuple(name for name, kind in STATE_FIELDS.items() if kind is not i8)


@njit(
    STATE(i8[::1], types.Tuple([STATE_FIELDS[name] for name in STATE_ARRAYS])),
    cache=True,
)
def new_state(ints: Any, arrays: Any) -> Any:
    """A compiled State from ``STATE_INTS`` and ``STATE_ARRAYS`` in that order."""
    s = structref.new(STATE)
    s.num_layers, s.num_experts, s.num_ranks, s.seed, s.has_scores = ints[0], ints[1], ints[2], ints[3], ints[4]
    s.step = -1
    (
        s.ids,
        s.weights,
        s.scores,
        s.lookahead,
        s.routed,
        s.status,
        s.shield,
        s.next_use,
        s.priority,
        s.demand,
        s.executed_ids,
        s.degraded,
        s.executed,
        s.executed_tokens,
        s.executed_gpu_ns,
        s.missing,
        s.missing_tokens,
        s.missing_importance,
        s.missing_load_ns,
        s.missing_cpu_ns,
        s.missing_gpu_ns,
        s.side,
        s.order,
        s.load_ns,
        s.predicted,
        s.prefetch_layer,
        s.prefetch_expert,
    ) = arrays
    return s


@njit(MACHINE(i8[::1], types.Tuple(list(MACHINE_ARRAYS.values()))), cache=True)
def new_machine(flags: Any, arrays: Any) -> Any:
    """A compiled Machine from ``MACHINE_FLAGS`` and ``MACHINE_ARRAYS`` in that order."""
    m = structref.new(MACHINE)
    m.touch, m.refresh, m.admit, m.bypass = flags[0], flags[1], flags[2], flags[3]
    m.predict, m.choose, m.substitute, m.assign = flags[4], flags[5], flags[6], flags[7]
    m.needs_importance, m.hold, m.predict_at_end = flags[8], flags[9], flags[10]
    m.chunks, m.staging_free = flags[11], flags[12]
    (
        m.pool_of,
        m.capacity,
        m.used,
        m.size,
        m.low_size,
        m.write_back_ns,
        m.low_load_ns,
        m.expert_ns,
        m.cpu_ns,
        m.layer_ns,
        m.step_ids,
        m.step_weights,
        m.step_scores,
        m.step_lookahead,
        m.step_next_use,
        m.status,
        m.shield,
        m.priority,
        m.held,
        m.members,
        m.member_count,
        m.place,
        m.demand_queue,
        m.prefetch_queue,
        m.queued,
        m.prefetched,
        m.prefetched_count,
        m.transient,
        m.staged,
        m.runs_low,
        m.executed_at,
        m.on_cpu_at,
        m.replaced_at,
        m.outcome,
        m.gpu_queue,
        m.cpu_queue,
        m.tokens_of,
        m.seen,
        m.plan,
        m.counts,
        m.lost,
    ) = arrays
    return m


@njit(RULES(RULE, REFRESH, ADMIT, BYPASS, RULE, RULE, RULE, RULE, types.UniTuple(f8[::1], 10)), cache=True)
def new_rules(
    touch: Any,
    refresh: Any,
    admit: Any,
    bypass: Any,
    predict: Any,
    choose: Any,
    substitute: Any,
    assign: Any,
    arrays: Any,
) -> Any:
    """Compiled decisions in the order of ``DECISIONS`` with knobs and memory of each part in turn."""
    r = structref.new(RULES)
    r.touch, r.refresh, r.admit, r.bypass = touch, refresh, admit, bypass
    r.predict, r.choose, r.substitute, r.assign = predict, choose, substitute, assign
    r.eviction_knobs, r.eviction_memory = arrays[0], arrays[1]
    r.prediction_knobs, r.prediction_memory = arrays[2], arrays[3]
    r.prefetch_knobs, r.prefetch_memory = arrays[4], arrays[5]
    r.substitution_knobs, r.substitution_memory = arrays[6], arrays[7]
    r.assignment_knobs, r.assignment_memory = arrays[8], arrays[9]
    return r
