"""The state as a rule of one's own sees it while it is tried in plain Python: every wrong step is a sentence.

What is watched: indices, what is written where and of which type, and whether what is read was stated as a need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Part
from policies.needs import Need
from policies.state import State
from sim.engine.decision.device import Device
from sim.engine.decision.rule_compilation import OWN, unstated
from sim.shipped_rules import type_name

NAMES = tuple(field.name for field in fields(State))
FINITE = ("priority", "predicted")


NOT_ITS_OWN = "a rule writes only the fields that policies/base.py names for its part, and its memory"


class Fault(Exception):
    """What a rule did wrong and what would be right."""


class Watched(np.ndarray[Any, Any]):
    """An array of the state, or the memory; slices of it are watched, too."""

    said: str | None = None
    """Its name, as `state.status`; None for an array that the rule made itself."""

    def __array_finalize__(self, source: Any) -> None:
        self.said = getattr(source, "said", None)

    def __getitem__(self, at: Any) -> Any:
        self._check_index(at)
        try:
            found = super().__getitem__(at)
        except IndexError as error:
            raise Fault(self._outside(at)) from error
        return found if isinstance(found, np.ndarray) else found.item()

    def __setitem__(self, at: Any, value: Any) -> None:
        self._check_index(at)
        if not self.flags.writeable:
            raise Fault(f"writes {self.said}, which is not its own: {self._may_write()}")
        self._check_value(value)
        try:
            super().__setitem__(at, value)
        except IndexError as error:
            raise Fault(self._outside(at)) from error
        except (OverflowError, ValueError, TypeError) as error:
            raise Fault(f"writes {_short(value)} to {self.said or 'an array'} of {self.dtype}: {error}") from error

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _check_index(self, at: Any) -> None:
        for number in at if isinstance(at, tuple) else (at,):
            if isinstance(number, float):
                raise Fault(f"{self._at(at)}: an index is a whole number: write int(...)")
            if isinstance(number, int | np.integer) and number < 0:
                raise Fault(f"{self._at(at)}: a negative index counts from the end of an array that may be longer")

    def _check_value(self, value: Any) -> None:
        array = np.asarray(value.view(np.ndarray) if isinstance(value, Watched) else value)
        if self.dtype.kind in "iu" and array.dtype.kind == "f" and not np.array_equal(array, np.floor(array)):
            raise Fault(
                f"writes {_short(value)} to {self.said or 'an array'}, which holds whole numbers: write int(...)"
            )
        finite = (self.said or "").removeprefix("state.") in FINITE
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Fault(f"writes {_short(value)} to {self.said}: must be a finite number")

    def _at(self, at: Any) -> str:
        inside = ", ".join(map(str, at)) if isinstance(at, tuple) else str(at)
        return f"{self.said or 'an array'}[{inside}]"

    def _outside(self, at: Any) -> str:
        if self.said == "memory":
            return (
                f"{self._at(at)} is outside of its {self.size} cells: return as many as it needs from "
                "memory_size(self, num_layers, num_experts, num_ranks)"
            )
        return f"{self._at(at)} is outside of its shape {list(self.shape)}: loop to the counters, as state.num_executed"

    def _may_write(self) -> str:
        return NOT_ITS_OWN


def _short(value: Any) -> str:
    plain = value.view(np.ndarray) if isinstance(value, Watched) else value
    text = " ".join(str(plain).split())
    return text if len(text) < 40 else f"{text[:37]}..."


def watched(array: NDArray[Any], said: str, writable: bool) -> Watched:
    """A view of an array that is watched."""
    found = array.view(Watched)
    found.said = said
    found.flags.writeable = writable
    return found


class WatchedState:
    """What a rule may read and write of a device's state, by name."""

    def __init__(self, device: Device, part: Part) -> None:
        self.__dict__["_device"], self.__dict__["_part"] = device, part
        own = self.__dict__["_own"] = OWN[type_name(part)]
        self.__dict__["_arrays"] = {
            name: watched(array, f"state.{name}", name in own) for name, array in device.arrays.items()
        }

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise Fault(f"reads state.{name}: {_nearest(name)}")
        lacks = unstated(self._part, name)
        if lacks is not None:
            raise Fault(lacks)
        if name == "routed":
            return watched(self._device.state.borrowed("routed", np.int32), "state.routed", False)
        array = self._arrays.get(name)
        return self._device.state.get(name) if array is None else array

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in NAMES:
            raise Fault(f"writes state.{name}: {_nearest(name)}")
        if name not in self._own or name in self._arrays:
            own = ", ".join(sorted(self._own))
            what = "an array: write its cells" if name in self._own else f"not its own: this part writes {own}"
            raise Fault(f"writes state.{name}, which is {what}")
        if isinstance(value, float) and value != int(value):
            raise Fault(f"writes {value} to state.{name}: must be a whole number")
        self._device.state.set(name, int(value))


def _nearest(name: str) -> str:
    near = get_close_matches(name, NAMES, 1)
    hint = f"did you mean state.{near[0]}?" if near else "policies/state.py lists the fields"
    return f"the state has no such field: {hint}"


def undo(device: Device) -> None:
    """Nothing of what a faulty decision wrote may reach the engine: as if no part had decided anything."""
    arrays, state = device.arrays, device.state
    for name, value in (("num_predicted", 0), ("num_predicted_tokens", state.get("num_tokens")), ("num_prefetch", 0)):
        state.set(name, value)
    arrays["executed_ids"][...], arrays["degraded"][:], arrays["side"][:] = arrays["ids"], 0, 0
    arrays["order"][:] = np.arange(arrays["order"].size)


Check = Callable[[Device, Part], None]


def check_touch(device: Device, part: Part) -> None:
    """After a decision of an eviction: priorities are numbers."""
    if not np.isfinite(device.arrays["priority"]).all():
        raise Fault("leaves a priority that is not a finite number in state.priority")


def check_predict(device: Device, part: Part) -> None:
    """After a prediction: as many layers and rows as there are, numbers in them."""
    state, predicted = device.state, device.arrays["predicted"]
    layers, rows = state.get("num_predicted"), state.get("num_predicted_tokens")
    left = min(predicted.shape[0], state.get("num_layers") - 1 - state.get("layer"))
    if not 0 <= layers <= left:
        raise Fault(
            f"sets state.num_predicted to {layers}: from this layer on it may be at most {left}, what depth() says and "
            "the model has"
        )
    if not 0 <= rows <= state.get("num_tokens"):
        raise Fault(f"sets state.num_predicted_tokens to {rows}: must be at most {state.get('num_tokens')}, the tokens")
    if not np.isfinite(predicted[:layers, :rows]).all():
        raise Fault("leaves a score that is not a finite number in state.predicted")


def check_choose(device: Device, part: Part) -> None:
    """After a choice of prefetches: experts of later layers."""
    count, layer = device.state.get("num_prefetch"), device.state.get("layer")
    layers, experts = device.arrays["prefetch_layer"], device.arrays["prefetch_expert"]
    if not 0 <= count <= layers.size:
        raise Fault(f"sets state.num_prefetch to {count}: must be from 0 to {layers.size}")
    promotes = bool(device.cache.get("promotes") or device.cache.get("admits"))
    for target, expert in zip(layers[:count].tolist(), experts[:count].tolist(), strict=True):
        if not (0 if promotes else layer + 1) <= target < device.spec.num_layers:
            which = f"from 0 to {device.spec.num_layers - 1}" if promotes else "a later layer of the model"
            raise Fault(f"prefetches for layer {target} in layer {layer}: must be {which}")
        if not 0 <= expert < device.spec.num_experts:
            raise Fault(f"prefetches expert {expert}: must be from 0 to {device.spec.num_experts - 1}")


def check_substitute(device: Device, part: Part) -> None:
    """After a substitution: experts that exist, none twice for a token."""
    ids = device.arrays["executed_ids"][: device.state.get("num_tokens")]
    if ((ids < -1) | (ids >= device.spec.num_experts)).any():
        raise Fault(
            f"writes an expert outside of 0 to {device.spec.num_experts - 1} to state.executed_ids (or DROPPED)"
        )
    ordered = np.sort(ids, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise Fault("gives one token the same expert twice in state.executed_ids")
    beyond = np.arange(ids.shape[1]) >= device.arrays["token_ranks"][: len(ids), None]
    if (beyond & (ids >= 0)).any():
        raise Fault("gives a token more experts than its router did: must leave state.executed_ids DROPPED from rank "
                    "state.token_ranks[token] on")  # fmt: skip
    if device.arrays["degraded"].any() and Need.LOW_PRECISION not in part.all_needs():
        raise Fault("writes state.degraded without stating the need: needs = frozenset({Need.LOW_PRECISION})")


def check_assign(device: Device, part: Part) -> None:
    """After an assignment: a permutation, and sides that there are."""
    count = device.state.get("num_missing")
    order, side = device.arrays["order"][:count], device.arrays["side"][:count]
    if sorted(order.tolist()) != list(range(count)):
        raise Fault("leaves an order in state.order that is not a permutation of the missing experts")
    if (side > 1).any():
        raise Fault("writes another side than LINK or CPU to state.side")
    if side.any() and Need.CPU not in part.all_needs():
        raise Fault("gives an expert to the CPU without stating the need: needs = frozenset({Need.CPU})")


def check_bypass(found: Any) -> None:
    """The answer of ``bypass``."""
    if not isinstance(found, bool | np.bool_):
        raise Fault(f"answers {found}: must be True or False, as bool(...)")


AFTER: dict[str, Check] = {
    "touch": check_touch, "refresh": check_touch, "admit": check_touch, "predict": check_predict,
    "choose": check_choose, "substitute": check_substitute, "assign": check_assign,
}  # fmt: skip
"""What is looked at after a decision."""
