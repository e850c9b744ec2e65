"""Compiled code's view of State, Cache and Rules: numba structs with the fields of the annotated classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
from numba import b1, f4, f8, i4, i8, types, u1
from numba.core.errors import NumbaExperimentalFeatureWarning
from numpy.typing import NDArray

from policies.state import State
from sim.engine.decision.cache import Cache, Float8
from sim.engine.decision.struct_views import View, caster

warnings.filterwarnings("ignore", category=NumbaExperimentalFeatureWarning)  # first-class functions: measured, tested

DTYPES = {"u1": u1, "i4": i4, "i8": i8, "f4": f4, "f8": f8}


def struct_of(described: type) -> View:
    """The struct with the annotated fields of a class, in their order: ``int``, arrays, compiled decisions."""
    hints = get_type_hints(described, include_extras=True)
    return View(described.__name__, {name: _numba_type(hint) for name, hint in hints.items()})


def _numba_type(hint: Any) -> Any:
    if hint is int:
        return i8
    _, *kind = get_args(hint)
    if isinstance(kind[0], types.Type):
        return kind[0]
    dtype, ndim = kind
    return types.Array(DTYPES[dtype], ndim, "C")


STATE, CACHE = struct_of(State), struct_of(Cache)

PART = View("Part", {})
"""The ``self`` of a decision: its knobs, which only the decision itself knows by name."""
MEMORY = f8[::1]
RULE = types.FunctionType(types.void(PART, STATE, MEMORY))
REFRESH = types.FunctionType(types.void(PART, STATE, MEMORY, i8))
ADMIT = types.FunctionType(types.void(PART, STATE, MEMORY, i8, i8, b1))
BYPASS = types.FunctionType(b1(PART, STATE, MEMORY, i8, i8, i8))

Knobs = Annotated[object, PART]
Array = NDArray[np.float64]
Rule = Annotated[Callable[[object, State, Array], None], RULE]


class Rules:
    """A policy's compiled decisions with the knobs and the memory of each of its parts."""

    eviction: Knobs
    prediction: Knobs
    prefetch: Knobs
    substitution: Knobs
    assignment: Knobs
    eviction_memory: Float8
    prediction_memory: Float8
    prefetch_memory: Float8
    substitution_memory: Float8
    assignment_memory: Float8
    touch: Rule
    refresh: Annotated[Callable[[object, State, Array, int], None], REFRESH]
    """... for the layer whose pool needs a victim."""
    admit: Annotated[Callable[[object, State, Array, int, int, bool], None], ADMIT]
    """... layer, expert, whether a prefetch brings it."""
    bypass: Annotated[Callable[[object, State, Array, int, int, int], bool], BYPASS]
    """... missing expert, layer and expert of the victim -> whether the victim stays."""
    predict: Rule
    choose: Rule
    substitute: Rule
    assign: Rule


RULES = struct_of(Rules)
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

IDS, SCORES, AHEAD, TIMES = i4[:, :, ::1], f4[:, :, ::1], f4[:, :, :, ::1], i8[:, :, ::1]
"""Router output of the B rows of a step: ids and weights [B, L, K], scores [B, L, E], lookahead [B, L-1, D, E],
next use [B, L, K]. What is not wanted has no rows."""

as_state, as_cache, as_rules = caster(STATE, State), caster(CACHE, Cache), caster(RULES, Rules)
"""Take an address for a struct."""
