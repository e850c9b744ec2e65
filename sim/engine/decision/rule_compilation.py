"""Compiles a policy's decisions once, so that every engine calls the same machine code."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, cast, get_args, get_type_hints

import numpy as np
from numba import boolean, config, f8, i8, njit, types
from numba.core.compiler import CompileResult
from numba.core.errors import NumbaError
from numba.core.typing import Signature
from numpy.typing import NDArray

from policies.base import Part, Policy, Substitution
from policies.needs import Need
from policies.state import State
from sim.engine.decision.layout import DECISIONS, PART_NAMES, RULES
from sim.engine.decision.python_calls import StandIn
from sim.engine.decision.struct_views import Struct, View
from sim.shipped_rules import is_shipped
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


OWN = {
    "eviction": ("priority",),
    "prediction": ("predicted", "num_predicted", "num_predicted_tokens"),
    "prefetch": ("prefetch_layer", "prefetch_expert", "num_prefetch"),
    "substitution": ("executed_ids", "degraded"),
    "assignment": ("side", "order"),
}
"""Part -> the fields of the state that it writes."""
GUARDED_MEMORY = types.Array(f8, 1, "C", aligned=False)
"""The memory of a rule that is not shipped: of a type of its own, so that no helper compiled without checks sees it."""


NEEDED = {
    "scores": (Need.GATE_SCORES, Need.IMPORTANCE),
    "weights": (Need.IMPORTANCE,),
    "lookahead": (Need.LOOKAHEAD_BEFORE, Need.LOOKAHEAD_AFTER, Need.FORECAST),
    "num_lookahead": (Need.LOOKAHEAD_BEFORE, Need.LOOKAHEAD_AFTER, Need.FORECAST),
    "routed": (Need.ORACLE,),
    "next_use": (Need.FUTURE,),
    "missing_importance": (Need.IMPORTANCE,),
    "missing_cpu_ns": (Need.CPU,),
    "cpu_ns": (Need.CPU,),
}
"""Field -> the needs of which a rule must state one to read it; a substitution always gets the weights."""


def unstated(part: Part, field: str) -> str | None:
    """What a rule has to state to read a field of the state, as the end of a sentence; None if it may read it."""
    needed = NEEDED.get(field)
    if needed is None or part.all_needs() & set(needed) or (field == "weights" and isinstance(part, Substitution)):
        return None
    words = " or ".join(f"Need.{need.name}" for need in needed)
    return (
        f"reads state.{field} without stating the need: write needs: ClassVar[frozenset[Need]] = "
        f"frozenset({{Need.{needed[0].name}}}) in the class" + (f" (or {words})" if len(needed) > 1 else "")
    )


def is_guarded(rule: type) -> bool:
    """Whether a rule is compiled so that it reaches no memory but its own: every one that is not shipped as it is."""
    return not is_shipped(rule) and not issubclass(rule, StandIn)


def guarded(signature: Signature, part: Part, part_name: str) -> Signature:
    """A decision's signature in which it can write only its own fields and read only what it states to need."""
    knobs, state, _, *rest = signature.args
    kinds = {
        name: kind.copy(readonly=True) if isinstance(kind, types.Array) and name not in OWN[part_name] else kind
        for name, kind in state.fields.items()
    }
    hidden = frozenset(name for name in NEEDED if unstated(part, name) is not None)
    own = View("State", kinds, frozenset(OWN[part_name]), hidden)
    return signature.return_type(knobs, own, GUARDED_MEMORY, *rest)


@contextmanager
def checked_bounds(wanted: bool) -> Iterator[None]:
    """While it lasts, what is compiled checks every index, helpers included.

    Raises: RuntimeError where numba has read its settings anew meanwhile, so that what was compiled may not.
    """
    if not wanted:
        yield
        return
    config.reload_config()  # numba does so by itself at the next compilation where variables have changed
    before, config.BOUNDSCHECK = config.BOUNDSCHECK, 1
    try:
        yield
        if config.BOUNDSCHECK != 1:
            raise RuntimeError("a rule was compiled without checks of its indices")
    finally:
        config.BOUNDSCHECK = before


@cache
def compiled(function: FunctionType, name: str, signature: Signature, checks: bool = False) -> CompileResult:
    """A decision as machine code, compiled once per process; ``checks``: of every index.

    Most rules allocate nothing and run faster without numba's reference counting; one that allocates cannot do
    without.
    """
    kept = Path(function.__code__.co_filename).is_file()  # what was typed into a notebook is compiled for this process
    with checked_bounds(checks), rule_cache(function) if kept else nullcontext():
        try:
            dispatcher = njit(signature, cache=kept, _nrt=False, boundscheck=checks)(function)
        except NumbaError:
            dispatcher = njit(signature, cache=kept, boundscheck=checks)(function)
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
    """The compiled method ``name`` of a part. Raises UserError naming the rule, the line and what is wrong there."""
    function, (part_name, kind) = getattr(type(part), name), DECISIONS[name]
    checks = is_guarded(type(part))
    signature = kind.signature.return_type(knobs_view(type(part)), *kind.signature.args[1:])
    signature = guarded(signature, part, part_name) if checks else signature
    try:
        if isinstance(inspect.getattr_static(type(part), name), staticmethod):
            with checked_bounds(checks):
                method = as_method(part, function, len(signature.args))
                return njit(signature, boundscheck=checks)(method).get_compile_result(signature)
        return compiled(function, name, signature, checks)
    except (NumbaError, TypeError) as error:
        raise UserError(complaint(part, name, function, str(error))) from error


def complaint(part: Part, name: str, function: FunctionType, text: str) -> str:
    """What numba says of a decision, as a sentence with file and line."""
    code, rule = function.__code__, type(part).__name__
    lines = [int(line) for file, line in re.findall(r" at (\S.*) \((\d+)\)", text) if file == code.co_filename]
    lines += [
        int(line) for file, line in re.findall(r'File "(.+)", line (\d+)', text) if code.co_filename.endswith(file)
    ]
    where = f"{code.co_filename}:{lines[0] if lines else code.co_firstlineno}: {rule}.{name}"
    unknown = re.search(r"Unknown attribute '(\w+)' of type View\[(\w+)\]", text)
    if unknown is None:
        unknown = re.search(r"Unknown attribute: (\w+)(?s:.)*?View\[(\w+)\]", text)
    if "Cannot modify readonly array" in text or "Cannot store to" in text:
        return f"{where} writes what is not its own: policies/base.py names the fields that a part writes"
    if unknown is not None and unknown[2] == "State" and (lacks := unstated(part, unknown[1])) is not None:
        return f"{where} {lacks}"
    if unknown is not None and unknown[2] == "State":
        names = [field.name for field in fields(State)]
        near = get_close_matches(unknown[1], names, 1)
        hint = f"did you mean state.{near[0]}?" if near else "policies/state.py lists the fields"
        return f"{where} reads state.{unknown[1]}, which the state does not have: {hint}"
    if unknown is not None:
        return (
            f"{where} reads self.{unknown[1]}, which is no numeric knob of {rule}: annotate it, as {unknown[1]}: float"
        )
    said = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in said if not line.startswith(("Failed in", "File", "There are"))), "unknown reason")
    return (
        f"{where} does not compile: {reason.removesuffix(':')}; a decision may use only loops, arithmetic, its numeric "
        "knobs and the arrays of policies.state.State"
    )


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
