"""Compiles a policy's decisions once, so that every engine calls the same machine code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from policies.base import Part, Policy
from sim.engine.decision.layout import DECISIONS, PART_NAMES, RULES, set_rules
from sim.engine.decision.struct_views import Struct
from traces.errors import UserError
from traces.numba_cache import rule_cache


@cache
def compiled(function: FunctionType, name: str, signature: Any) -> Any:
    """A decision as a compiled function, once per process.

    Most rules allocate nothing and run faster without numba's reference counting; one that allocates cannot do
    without.
    """
    with rule_cache(function):
        try:
            return njit(signature.signature, cache=True, _nrt=False)(function)
        except NumbaError:
            return njit(signature.signature, cache=True)(function)


def compile_decision(part: Part, name: str, signature: Any) -> Any:
    """The compiled static method ``name`` of a part. Raises UserError naming the rule and numba's complaint."""
    function = getattr(type(part), name)
    try:
        return compiled(function, name, signature)
    except NumbaError as error:
        where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unknown reason")
        raise UserError(
            f"{type(part).__name__}.{name} ({where}) does not compile: {reason}; a decision may use only loops, "
            "arithmetic and the arrays of policies.state.State"
        ) from error


def compile_rules(policy: Policy, memories: Mapping[str, NDArray[np.float64]]) -> Struct:
    """Compiled decisions of a policy with the knobs and the memory of each part, as the engine's Rules."""
    parts = dict(zip(PART_NAMES, policy.parts(), strict=True))
    decisions = [compile_decision(parts[part], name, kind) for name, (part, kind) in DECISIONS.items()]
    rules = Struct(RULES)
    for name, part in parts.items():
        rules.set(f"{name}_knobs", part.knobs())
        rules.set(f"{name}_memory", memories[name])
    rules.kept = decisions
    set_rules(rules.address, *decisions)
    return rules
