"""Cells of a table as numbers, each checked; whatever is no such number is named with its line."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, PREFILL

Where = Callable[[int], str]
"""Where the value number i of a batch stands in the file."""
MISSING = -1
LARGEST = 2**40
_BRACKETS = re.compile(r"^(?:tensor|array)?[\[({]*(.*?)[\])}]*$", re.DOTALL)
_SEPARATORS = re.compile(r"[,;|\s]+")
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
_LAYER_OF = re.compile(r"(?:layers?|blk|block|blocks|h)[._ -]?(\d+)", re.IGNORECASE)
_PHASES = {
    **dict.fromkeys(("prefill", "prompt", "context", "input", "pp", "extend", "0"), PREFILL),
    **dict.fromkeys(
        ("decode", "generated", "generation", "generate", "gen", "output", "completion", "tg", "1"), DECODE
    ),
}
_TRUE = {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}


def integers(
    values: Any, where: Where, name: str, least: int = 0, most: int = LARGEST, none_is_minus_one: bool = False
) -> NDArray[np.int64]:
    """Whole numbers [n]; MISSING where there is none, which `none_is_minus_one` may write as -1.

    Raises: UserError for anything else, and for numbers below `least` or above `most`.
    """
    array = _quick(values)
    if array is None:
        array = np.array([_integer(value, where, name, at) for at, value in enumerate(values)], np.int64)
    wrong = (array < least) | (array > most)
    for at in np.flatnonzero(wrong & (array == MISSING)).tolist():
        value = values[at]
        wrong[at] = not (none_is_minus_one or value is None or (isinstance(value, float) and math.isnan(value)))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise UserError(f"{where(at)}: {name}={array[at]}: must be an integer from {least} to {most}")
    return array


def _quick(values: Any) -> NDArray[np.int64] | None:
    """All of them at once where they are of one plain kind."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iu":
            return values.astype(np.int64) if not values.size or int(np.max(values)) <= LARGEST + 1 else None
        whole = np.isnan(values) | ((values == np.floor(values)) & (np.abs(values) <= LARGEST + 1))
        return np.where(np.isnan(values), MISSING, values).astype(np.int64) if whole.all() else None
    kinds = set(map(type, values))
    try:
        if kinds == {int}:
            return np.array(values, np.int64)
        if kinds == {str} and all(map(str.isdigit, values)):
            return np.array(list(map(int, values)), np.int64)
    except (OverflowError, ValueError):
        return None
    return None


def _integer(value: Any, where: Where, name: str, at: int) -> int:
    if value is None:
        return MISSING
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and math.isnan(value):
        return MISSING
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and abs(int(value)) <= LARGEST + 1:
        return int(value)
    if isinstance(value, float | np.floating) and abs(float(value)) <= LARGEST and float(value).is_integer():
        return int(value)
    raise UserError(f"{where(at)}: {name}={value!r}: must be an integer")


def layers(values: Any, where: Where, name: str) -> NDArray[np.int64]:
    """Numbers of layers [n], also out of names such as model.layers.3.mlp.

    Raises: UserError for a name without a number, and where there is none.
    """
    if isinstance(values, Sequence) and any(isinstance(value, str) and not value.isdigit() for value in values):
        known: dict[str, int] = {}
        for at, value in enumerate(values):
            if isinstance(value, str) and value not in known:
                known[value] = _layer(value, where, name, at)
        values = [known[value] if isinstance(value, str) else value for value in values]
    found = integers(values, where, name, 0, 65535)
    if (found == MISSING).any():
        raise UserError(f"{where(int(np.argmax(found == MISSING)))} has no {name}")
    return found


def _layer(text: str, where: Where, name: str, at: int) -> int:
    if _WHOLE.fullmatch(text):
        return int(text.partition(".")[0])
    numbers = re.findall(r"\d+", text)
    match = _LAYER_OF.search(text)
    if match is None and len(numbers) != 1:
        raise UserError(f"{where(at)}: {name}={text!r}: must be a number, or a name with the number of its layer")
    return int((match[1] if match else numbers[0])[:18])


def numbers(values: Any, where: Where, name: str) -> NDArray[np.float32] | None:
    """Finite numbers [n]; None where there are none at all.

    Raises: UserError where only some are there, and for what is no finite number.
    """
    if isinstance(values, np.ndarray):
        array = values.astype(np.float64)
    else:
        absent = [value is None for value in values]
        if all(absent):
            return None
        if any(absent):
            raise UserError(f"{where(absent.index(True))} has no {name}: must be in all {'lines'} or in none")
        array = _floats(values, where, name)
    with np.errstate(over="ignore"):
        small = array.astype(np.float32)
    if not np.isfinite(small).all():
        at = int(np.argmax(~np.isfinite(small)))
        raise UserError(f"{where(at)}: {name}={array[at]}: must be a finite number")
    return small


def _floats(values: Any, where: Where, name: str) -> NDArray[np.float64]:
    try:
        if {type(value) for value in values} <= {str, float, int}:
            return np.array(list(map(float, values)), np.float64)
    except (ValueError, OverflowError):
        pass  # which one it is, is found below
    return np.array([_number(value, where, name, at) for at, value in enumerate(values)], np.float64)


def _number(value: Any, where: Where, name: str, at: int) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{where(at)}: {name}={value!r}: must be a finite number")


def phases(values: Any, where: Where, column: str) -> NDArray[np.int64]:
    """PREFILL or DECODE [n], MISSING where there is none; a column is_prefill or is_prompt says the opposite.

    Raises: UserError for a word that is neither.
    """
    flag, known = column.startswith("is_"), dict[str, int]()
    found = []
    for at, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else values):
        if value is None:
            found.append(MISSING)
            continue
        text = value if isinstance(value, str) else repr(value).removesuffix(".0")
        if text not in known:
            code = (_TRUE if flag else _PHASES).get(text.strip().lower())
            if code is None:
                words = "true or false" if flag else "'prefill' or 'decode'"
                raise UserError(f"{where(at)}: {column}={value!r}: must be {words}")
            known[text] = 1 - code if column in ("is_prefill", "is_prompt") else code
        found.append(known[text])
    return np.array(found, np.int64)


@dataclass(slots=True)
class Lists:
    """Values of C cells, one after the other: `flat` [N], `counts` [C]; cell c is item `sub[c]` of record `owner[c]`.

    `scalar`: every record holds one value and no list.
    """

    flat: Any
    counts: NDArray[np.int64]
    owner: NDArray[np.int64]
    sub: NDArray[np.int64]
    scalar: bool = False


def lists(values: Any, where: Where, name: str) -> Lists:
    """The lists in a column: of one cell each, of one per token where they are nested, or single values.

    Raises: UserError for records of several of these kinds.
    """
    if isinstance(values, np.ndarray):
        count, width = len(values), 1 if values.ndim == 1 else values.shape[1]
        one = np.arange(count)
        return Lists(values.reshape(-1), np.full(count, width), one, np.zeros_like(one), values.ndim == 1)
    if all(isinstance(value, str) and value.replace(".", "", 1).replace("-", "", 1).isalnum() for value in values):
        one = np.arange(len(values))
        return Lists(values, np.ones_like(one), one, np.zeros_like(one), True)
    found = [_listed(value) for value in values]
    kinds = {_depth(value) for value in found if value is not None and value != []}
    if len(kinds) > 1:
        raise UserError(f"{where(0)} and later: {name} must be a number, a list, or a list of lists, in all the same")
    depth = kinds.pop() if kinds else 1
    if depth == 0:
        one = np.arange(len(found))
        return Lists(found, np.ones(len(found), np.int64), one, np.zeros_like(one), True)
    cells: list[Any] = []
    owner, sub = [], []
    for at, value in enumerate(found):
        for place, cell in enumerate((value or []) if depth == 2 else [value]):
            if depth == 2 and not isinstance(cell, list):
                raise UserError(f"{where(at)}: {name} must be a list of lists, one per token")
            cells.append(cell or [None])
            owner.append(at)
            sub.append(place)
    flat = [value for cell in cells for value in cell]
    if any(isinstance(value, list | dict) for value in flat):
        raise UserError(f"{where(0)} and later: {name} is nested deeper than a list of lists")
    counts = np.fromiter(map(len, cells), np.int64, len(cells))
    return Lists(flat, counts, np.array(owner, np.int64), np.array(sub, np.int64))


def _listed(value: Any) -> Any:
    """A list where a text holds one: "[1, 5]", "1 5", "1;5"."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, str):
        return value
    match = _BRACKETS.fullmatch(value.strip())
    inner = match[1].strip() if match else value
    parts = [part for part in _SEPARATORS.split(inner) if part]
    return parts if inner != value.strip() or len(parts) > 1 else value


def _depth(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    return 2 if value and isinstance(value[0], list) else 1
