"""What the uncertainty of a machine's figures does to a value, from exact replays on plausible machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.metrics.registry import Quantity
from sim.statistics.bootstrap import Vector


@dataclass(frozen=True, slots=True)
class Plausible:
    """Metrics of one policy on the stated machine and on plausible ones, replayed on some of a run's requests.

    `requests`: their numbers in the whole trace; `stated`: metric -> value on the machine as its files state it;
    `drawn`: metric -> [N] values on the plausible machines, in an order that all policies share; NaN where not known.
    """

    requests: tuple[int, ...]
    stated: Mapping[str, float]
    drawn: Mapping[str, Vector]

    @property
    def machines(self) -> int:
        """How many machines were drawn."""
        return max((len(values) for values in self.drawn.values()), default=0)

    def knows(self, quantity: Quantity) -> bool:
        """Whether the quantity was known on every machine."""
        name = quantity.name
        return name in self.drawn and bool(np.isfinite([self.stated[name], *self.drawn[name]]).all())

    def shifts(self, quantity: Quantity, value: float) -> Vector:
        """How the run's value of the quantity would change on each plausible machine, [N]."""
        return moved(quantity, value, self.stated[quantity.name], self.drawn[quantity.name]) - value


def moved(quantity: Quantity, value: float, stated: float, other: Vector) -> Vector:
    """A run's value where the replays of some of its requests gave `stated` and, on other machines, `other` [N].

    A time changes by the same factor as theirs, any other quantity by the same amount.
    """
    if quantity.is_time and stated > 0:
        return np.asarray(value * other / stated, np.float64)
    return np.asarray(value + other - stated, np.float64)


def comparable(one: Plausible | None, other: Plausible | None, quantity: Quantity) -> bool:
    """Whether two runs were replayed on the same machines and requests, and know the quantity there."""
    if one is None or other is None or not (one.knows(quantity) and other.knows(quantity)):
        return False
    return one.requests == other.requests and one.machines == other.machines
