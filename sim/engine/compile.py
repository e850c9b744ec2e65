"""Compiles a policy's decisions once, so that every engine calls the same machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core.errors import NumbaError

from policies.base import Part, Policy
from sim.engine.layout import DECISIONS, new_rules
from traces.errors import UserError


def compile_decision(part: Part, name: str, signature: Any) -> Any:
    """The compiled static method ``name`` of a part. Raises UserError naming the rule and numba's complaint."""
    function = getattr(type(part), name)
    try:
        return njit(signature.signature, cache=True)(function)
    except NumbaError as error:
        where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unknown reason")
        raise UserError(
            f"{type(part).__name__}.{name} ({where}) does not compile: {reason}; a decision may use only loops, "
            "arithmetic and the arrays of policies.state.State"
        ) from error


def compile_rules(policy: Policy, num_layers: int, num_experts: int, num_ranks: int) -> Any:
    """Compiled decisions of a policy with fresh memories, as the engine's Rules struct."""
    parts = {
        part: getattr(policy, part) for part in ("eviction", "prediction", "prefetch", "substitution", "assignment")
    }
    decisions = [compile_decision(parts[part], name, kind) for name, (part, kind) in DECISIONS.items()]
    arrays: list[Any] = []
    for part in parts.values():
        arrays += [part.knobs(), np.zeros(part.memory_size(num_layers, num_experts, num_ranks))]
    return new_rules(*decisions, tuple(arrays))
