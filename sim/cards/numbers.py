"""Lists and tables of numbers in a card, each refused in one sentence where it cannot be one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError

TOLERANCE = 0.02
"""How far sums may be from what they must be: the numbers of a card are rounded."""


def check_list(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = 1.0,
    length: int | None = None,
    whole: bool = False,
    order: str | None = None,
) -> None:
    """Raises: UserError unless `value` is a list of finite numbers from `low` to `high`.

    `length`: how many; None: at least one. `order`: "rising" or "falling", equal neighbours allowed; "distinct" rising
    without them.
    """
    kind = "whole numbers" if whole else "numbers"
    allowed = f"{kind} from {low:g} to {high:g}" if math.isfinite(high) else f"{kind} of at least {low:g}"
    allowed = f"a list of {'' if length is None else f'{length} '}{allowed}"
    if not isinstance(value, list) or not value:
        raise UserError(f"{name}={value}: must be {allowed}")
    if length is not None and len(value) != length:
        raise UserError(f"{name} has {len(value)} entries: must be {allowed}")
    for place, entry in enumerate(value):
        number = isinstance(entry, int if whole else int | float) and not isinstance(entry, bool)
        if not number or not low <= entry <= high or not math.isfinite(entry):
            raise UserError(f"{name}[{place}]={entry}: must be one of {allowed}")
    for place in range(1, len(value) if order else 0):
        before, now = value[place - 1], value[place]
        if now < before if order == "rising" else now > before if order == "falling" else now <= before:
            wanted = {"rising": "at least", "falling": "at most", "distinct": "above"}[str(order)]
            raise UserError(f"{name}[{place}]={now}: must be {wanted} the {before} before it")


def check_table(name: str, value: Any, rows: tuple[int, ...], **of_row: Any) -> None:
    """Raises: UserError unless `value` is a list of as many lists as one of `rows` says, each as `check_list` wants."""
    if not isinstance(value, list) or len(value) not in rows:
        counted = f" has {len(value)} rows" if isinstance(value, list) else f"={value}"
        raise UserError(
            f"{name}{counted}: must be a list of {' or '.join(map(str, sorted(set(rows))))} lists of numbers"
        )
    for place, row in enumerate(value):
        check_list(f"{name}[{place}]", row, **of_row)


def check_sum(name: str, total: float, wanted: float) -> None:
    """Raises: UserError unless a sum is what it must be, up to rounding."""
    if not abs(total - wanted) <= TOLERANCE * wanted:
        raise UserError(f"{name} adds up to {total:.4g}: must be {wanted:g}")


def rounded(values: Any, digits: int = 4) -> Any:
    """Numbers of an array as plain lists, rounded."""
    return (np.round(np.asarray(values, np.float64), digits) + 0.0).tolist()


def by_layer(table: list[Any], layers: int) -> NDArray[np.float64]:
    """Rows of a table stretched to so many layers, [layers, ...]: nearest layers where the numbers differ."""
    rows = np.asarray(table, np.float64)
    chosen = ((np.arange(layers) + 0.5) * len(rows) / layers).astype(np.int64)
    return rows[chosen]


def bins(sorted_values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Means over at most so many runs of neighbours of nearly equal length, along the last axis."""
    count = sorted_values.shape[-1]
    edges = bin_edges(count, min(count, most))
    sums = np.add.reduceat(sorted_values, edges[:-1], axis=-1)
    return np.asarray(sums / np.diff(edges), np.float64)


def bin_edges(count: int, number: int) -> NDArray[np.int64]:
    """First entries of `number` runs over `count` entries, and the end, [number+1]."""
    return (np.arange(number + 1) * count) // number


def unbinned(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`count` values that lie on the curve through binned ones, along the last axis."""
    number = values.shape[-1]
    if number == count:
        return values
    places = (np.arange(count) + 0.5) / count
    known = (np.arange(number) + 0.5) / number
    return np.stack([np.interp(places, known, row) for row in values])
