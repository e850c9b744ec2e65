"""Machines that are as plausible as a stated one: its figures within the errors that its files state."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from sim.machine.machine import PARAMETERS, Machine


def drawn_machine(machine: Machine, seed: int, number: int) -> Machine:
    """The plausible machine of a seed and a number; the same for every policy, and for every order of the figures.

    A figure of relative standard error s is multiplied by exp(sigma z) with a normal number z of its own and
    sigma = sqrt(log(1 + s^2)): its median is the stated value, it stays positive, and an error of 1 is a factor of 2.3
    either way (one sigma). Figures that machines share by name (a runtime's on two machines) move together. What leaves
    its allowed range is taken to its nearest allowed value; whole numbers stay as they are.
    """
    figures: dict[str, Any] = {}
    for name in machine.uncertainty:
        draw = np.random.default_rng([seed, number, zlib.crc32(name.encode())]).standard_normal()
        figures |= _moved(machine, name, float(draw))
    return machine.with_figures(figures)


def moved_machine(machine: Machine, figure: str, errors: float) -> Machine:
    """The machine with one figure so many standard errors of its logarithm (sigma, above) from what is stated.

    A figure that is exact, or 0, stays; so does a whole number.
    """
    return machine.with_figures(_moved(machine, figure, errors))


def _moved(machine: Machine, name: str, errors: float) -> dict[str, Any]:
    """The figure that is moved, by its name; none where it cannot be."""
    value, parameter, error = machine.figure(name), PARAMETERS[name], machine.uncertainty.get(name, 0.0)
    if not error > 0 or not value or parameter.whole:
        return {}
    moved = value * math.exp(math.sqrt(math.log1p(error**2)) * errors)
    return {name: min(max(moved, parameter.limit.low), parameter.limit.high)}
