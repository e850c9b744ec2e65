"""Compiles a policy's decisions once, so that every engine calls the same machine code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import FunctionType
from typing import Any, cast, get_args, get_type_hints

import numpy as np
from numba import boolean, f8, i8, njit
from numba.core.compiler import CompileResult
from numba.core.errors import NumbaError
from numba.core.typing import Signature
from numpy.typing import NDArray

from policies.base import Part, Policy
from sim.engine.decision.layout import DECISIONS, PART_NAMES, RULES
from sim.engine.decision.struct_views import Struct, View
from traces.errors import UserError
from traces.numba_cache import rule_cache


def knobs_view(rule: type) -> View:
    """The struct that compiled decisions of a rule see as ``self``: its numeric fields by name.

    Text chooses data, not decisions: it is left out. A field that may be None is a float64, NaN for None.
    """
    names = {knob.name for knob in fields(rule)}
    kinds = {name: _kind(hint) for name, hint in get_type_hints(rule).items() if name in names}
    return View("Knobs", {name: kind for name, kind in kinds.items() if kind is not None})


def _kind(hint: Any) -> Any:
    options = set(get_args(hint) or (hint,))
    exact = {bool: boolean, int: i8}.get(hint)
    return exact if exact is not None else f8 if options <= {int, float, type(None)} else None


def knobs_struct(part: Part) -> Struct:
    """A part's knobs as its compiled decisions read them."""
    view = knobs_view(type(part))
    knobs = {name: getattr(part, name) for name in view.fields}
    return Struct(view, **{name: math.nan if value is None else value for name, value in knobs.items()})


@cache
def compiled(function: FunctionType, name: str, signature: Signature) -> CompileResult:
    """A decision as machine code, compiled once per process.

    Most rules allocate nothing and run faster without numba's reference counting; one that allocates cannot do
    without.
    """
    with rule_cache(function):
        try:
            dispatcher = njit(signature, cache=True, _nrt=False)(function)
        except NumbaError:
            dispatcher = njit(signature, cache=True)(function)
    return dispatcher.get_compile_result(signature)


def as_method(part: Part, function: FunctionType, num_arguments: int) -> FunctionType:
    """A method for a decision that is a static method of (state, knobs, memory, ...).

    ``knobs`` is a float64 array of all fields but text in dataclass order, None as NaN. Such a decision is compiled
    anew in every process: its knobs are constants in the machine code.
    """
    values = [getattr(part, knob.name) for knob in fields(part)]
    knobs = np.array([math.nan if v is None else v for v in values if not isinstance(v, str)], np.float64)
    decision = njit(function)
    by_arguments = {
        3: lambda self, state, memory: decision(state, knobs, memory),
        4: lambda self, state, memory, layer: decision(state, knobs, memory, layer),
        6: lambda self, state, memory, first, second, third: decision(state, knobs, memory, first, second, third),
    }
    return cast(FunctionType, by_arguments[num_arguments])


def compile_decision(part: Part, name: str) -> CompileResult:
    """The compiled method ``name`` of a part. Raises UserError naming the rule and numba's complaint."""
    function, kind = getattr(type(part), name), DECISIONS[name][1].signature
    signature = kind.return_type(knobs_view(type(part)), *kind.args[1:])
    try:
        if isinstance(inspect.getattr_static(type(part), name), staticmethod):
            return njit(signature)(as_method(part, function, len(signature.args))).get_compile_result(signature)
        return compiled(function, name, signature)
    except (NumbaError, TypeError) as error:
        where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unknown reason")
        raise UserError(
            f"{type(part).__name__}.{name} ({where}) does not compile: {reason}; a decision may use only loops, "
            "arithmetic, its numeric knobs and the arrays of policies.state.State"
        ) from error


def compile_rules(policy: Policy, memories: Mapping[str, NDArray[np.float64]]) -> Struct:
    """Compiled decisions of a policy with the knobs and the memory of each part, as the engine's Rules."""
    parts = dict(zip(PART_NAMES, policy.parts(), strict=True))
    knobs = {name: knobs_struct(part) for name, part in parts.items()}
    decisions = {name: compile_decision(parts[part], name) for name, (part, _) in DECISIONS.items()}
    rules = Struct(RULES)
    for name in PART_NAMES:
        rules.set(name, knobs[name].address)
        rules.set(f"{name}_memory", memories[name])
    for name, decision in decisions.items():
        rules.set_function(name, decision)
    rules.kept = (knobs, decisions)
    return rules
