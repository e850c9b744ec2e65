"""Decisions that hand over to Python: stand-ins that an engine calls as it calls compiled rules."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from llvmlite import ir
from numba import i8
from numba.extending import intrinsic

from policies.base import Part

CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
"""What a stand-in calls: (up to three integers of the decision) -> its answer; must raise nothing."""


@intrinsic
def call_python(_: Any, address: Any, first: Any, second: Any, third: Any) -> Any:
    """Call the function at an address, which Python made."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        function = builder.inttoptr(arguments[0], ir.FunctionType(word, [word] * 3).as_pointer())
        return builder.call(function, arguments[1:])

    return i8(i8, i8, i8, i8), generate


@dataclass(frozen=True)
class StandIn:
    """A part whose decisions are those of Python at the addresses in its fields."""

    touch_at: int = 0
    refresh_at: int = 0
    admit_at: int = 0
    bypass_at: int = 0
    predict_at: int = 0
    choose_at: int = 0
    substitute_at: int = 0
    assign_at: int = 0


def _touch(self: Any, state: Any, memory: Any) -> None:
    call_python(self.touch_at, 0, 0, 0)


def _refresh(self: Any, state: Any, memory: Any, layer: int) -> None:
    call_python(self.refresh_at, layer, 0, 0)


def _admit(self: Any, state: Any, memory: Any, layer: int, expert: int, prefetched: bool) -> None:
    call_python(self.admit_at, layer, expert, int(prefetched))


def _bypass(self: Any, state: Any, memory: Any, expert: int, victim_layer: int, victim: int) -> bool:
    return bool(call_python(self.bypass_at, expert, victim_layer, victim) != 0)


def _predict(self: Any, state: Any, memory: Any) -> None:
    call_python(self.predict_at, 0, 0, 0)


def _choose(self: Any, state: Any, memory: Any) -> None:
    call_python(self.choose_at, 0, 0, 0)


def _substitute(self: Any, state: Any, memory: Any) -> None:
    call_python(self.substitute_at, 0, 0, 0)


def _assign(self: Any, state: Any, memory: Any) -> None:
    call_python(self.assign_at, 0, 0, 0)


_DECISIONS: dict[str, Callable[..., Any]] = {
    "touch": _touch, "refresh": _refresh, "admit": _admit, "bypass": _bypass, "predict": _predict, "choose": _choose,
    "substitute": _substitute, "assign": _assign,
}  # fmt: skip


def stand_in(part: Part, decisions: dict[str, Callable[[int, int, int], int]]) -> tuple[Any, list[Any]]:
    """(a part that behaves as this one but for the decisions, which Python takes; what must live as long as it)."""
    kept = {name: CALLBACK(decide) for name, decide in decisions.items()}
    rule = type(part)
    members = {name: _DECISIONS[name] for name in decisions} | {
        "__dataclass_fields__": {field.name: field for field in fields(StandIn)},
        "__annotations__": {field.name: int for field in fields(StandIn)},
        "__module__": __name__,
    }
    made: Any = object.__new__(type(rule.__name__, (rule, StandIn), members))
    values = {knob.name: getattr(part, knob.name) for knob in fields(part)} | copy.copy(getattr(part, "__dict__", {}))
    addresses = {f"{name}_at": ctypes.cast(function, ctypes.c_void_p).value for name, function in kept.items()}
    for name, value in (values | {field.name: 0 for field in fields(StandIn)} | addresses).items():
        object.__setattr__(made, name, value)
    return made, list(kept.values())
