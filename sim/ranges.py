"""Ranges of knobs, stated on the fields of a dataclass and checked by one function.

    @dataclass(frozen=True, slots=True)
    class Knobs:
        tokens: Count = 1
        share: Annotated[float, Range(0, 1, above=True)] = 0.5
        mode: Annotated[str, OneOf("fast", "exact")] = "fast"

        def __post_init__(self) -> None:
            check_ranges(self, "group.")

None is allowed where the field's type allows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class Range:
    """A finite number from ``low`` to ``high``, both allowed unless it must be ``above`` or ``below`` them."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    null: str | None = None
    """What null stands for, where the sentence shall say so."""

    def holds(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under and math.isfinite(value)

    def __str__(self) -> str:
        low, high = _number(self.low), _number(self.high)
        if self.high == math.inf:
            text = f"above {low}" if self.above else f"at least {low}"
        elif self.above or self.below:
            text = f"{'above' if self.above else 'at least'} {low} and {'below' if self.below else 'at most'} {high}"
        else:
            text = f"between {low} and {high}"
        return text if self.null is None else f"{text}, or null for {self.null}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def holds(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return " or ".join(self.words) if len(self.words) < 3 else f"one of {', '.join(self.words)}"


Count = Annotated[int, Range(1)]
"""How many, at least one."""
Amount = Annotated[int, Range(0)]
"""How many, or none."""
Few = Annotated[int, Range(1, 2**24)]
"""How many of something that is simulated one by one."""
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**63 - 1)]


def check_ranges(record: Any, prefix: str = "") -> None:
    """Raises: UserError for the first field out of its range: `<prefix><field>=<value>: must be <range>`."""
    for name, rule in _rules(record.__class__):
        value = getattr(record, name)
        if value is not None and not rule.holds(value):
            raise UserError(f"{prefix}{name}={value}: must be {rule}")


@cache
def _rules(cls: Any) -> tuple[tuple[str, Range | OneOf], ...]:
    """The rules on the fields of a dataclass, also of `Count | None`."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple((name, rule) for name, hint in hints.items() for rule in _rules_of(hint))


def _rules_of(hint: Any) -> tuple[Range | OneOf, ...]:
    if get_origin(hint) is Annotated:
        return tuple(rule for rule in hint.__metadata__ if isinstance(rule, Range | OneOf))
    return tuple(rule for kind in get_args(hint) for rule in _rules_of(kind))


def _number(value: Any) -> str:
    if value == 2**63 - 1:
        return "2**63 - 1"
    return f"{value:g}" if isinstance(value, float) else f"{value}"
