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
class RulesStruct(_Struct):
    """Numba type of Rules."""


class _Proxy(structref.StructRefProxy):  # type: ignore[misc]
    def __new__(cls, *args: Any) -> Any:
        return structref.StructRefProxy.__new__(cls, *args)


class StateProxy(_Proxy):
    """A State that lives in compiled code; its arrays are shared with Python."""


class MachineProxy(_Proxy):
    """The engine's bookkeeping in compiled code; its arrays are shared with Python."""


class RulesProxy(_Proxy):
    """Compiled decisions with their knobs and memories."""


structref.define_boxing(StateStruct, StateProxy)
structref.define_boxing(MachineStruct, MachineProxy)
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

MACHINE_INTS = (
    "hold",  # 1: cache.overflow=hold
    "predict_at_end",  # 1: the prediction exists only at the end of the layer
    "staging_free",
    "holding_transient",  # executed experts that must give their slot up but have not run yet
    "demand_head",
    "demand_tail",
    "prefetch_head",
    "prefetch_tail",
    "copy_layer",  # the copy on the link
    "copy_expert",
    "overflow",  # 1: the demand of the layer step is above the capacity
    "copy_staged",  # 1: it goes to a staging slot
)
MACHINE_ARRAYS = {
    "pool_of": i8[::1],  # [L] which pool of bytes a layer's experts share
    "capacity": i8[::1],  # [P] bytes
    "used": i8[::1],  # [P] bytes resident or in flight
    "size": i8[::1],  # [L] bytes of one expert
    "load_ns": i8[::1],  # [L] cost of one copy, for assignment rules
    "cpu_ns": i8[:, ::1],  # [L, B+1] cost of one CPU expert by tokens; 0 rows if the hardware has none
    "demand_queue": i4[::1],  # [E]
    "prefetch_queue": i4[:, ::1],  # [L*E, 2] (layer, expert)
    "queued": u1[:, ::1],  # [L, E] 1: waits in the prefetch queue
    "prefetched": u1[:, ::1],  # [L, E] 1: came by prefetch and was not demanded yet
    "transient": u1[::1],  # [E] 1: executed this layer step but not kept (demand above capacity)
    "staged": u1[::1],  # [E] 1: sits in a staging slot
    "outcome": u1[::1],  # [num_demand] of each demanded expert
    "gpu_queue": i4[::1],  # [E] executed on the GPU: ready ones, then in order of arrival
    "cpu_queue": i4[::1],  # [E] executed on the CPU
    "tokens_of": i4[::1],  # [E] tokens served by each expert in this layer step
    "seen": u1[::1],  # [E] scratch
    "plan": i8[::1],  # results of begin, see PLAN
    "counts": i8[::1],  # running counters, see COUNTERS
    "lost": f8[::1],  # [0] summed share of weight not executed as routed, [1] token-layers summed
}
MACHINE = MachineStruct([(name, i8) for name in MACHINE_INTS] + list(MACHINE_ARRAYS.items()))


def machine_arrays(num_layers: int, num_experts: int) -> dict[str, NDArray[Any]]:
    """Zeroed bookkeeping arrays of the sizes noted above; pools, sizes and costs are the caller's."""
    experts, grid = (num_experts,), (num_layers, num_experts)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "demand_queue": (experts, np.int32),
        "prefetch_queue": ((num_layers * num_experts, 2), np.int32),
        "queued": (grid, np.uint8),
        "prefetched": (grid, np.uint8),
        "transient": (experts, np.uint8),
        "staged": (experts, np.uint8),
        "outcome": (experts, np.uint8),
        "gpu_queue": (experts, np.int32),
        "cpu_queue": (experts, np.int32),
        "tokens_of": (experts, np.int32),
        "seen": (experts, np.uint8),
        "plan": ((len(PLAN),), np.int64),
        "counts": ((len(COUNTERS),), np.int64),
        "lost": ((2,), np.float64),
    }
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}


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


@njit(MACHINE(i8, i8, i8, types.Tuple(list(MACHINE_ARRAYS.values()))), cache=True)
def new_machine(hold: int, predict_at_end: int, staging_slots: int, arrays: Any) -> Any:
    """A compiled Machine from ``MACHINE_ARRAYS`` in that order."""
    m = structref.new(MACHINE)
    m.hold, m.predict_at_end, m.staging_free = hold, predict_at_end, staging_slots
    (
        m.pool_of,
        m.capacity,
        m.used,
        m.size,
        m.load_ns,
        m.cpu_ns,
        m.demand_queue,
        m.prefetch_queue,
        m.queued,
        m.prefetched,
        m.transient,
        m.staged,
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
