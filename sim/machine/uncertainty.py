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
    for name, error in machine.uncertainty.items():
        value, limit = machine.figure(name), PARAMETERS[name].limit
        if error > 0 and value and not PARAMETERS[name].whole:
            draw = np.random.default_rng([seed, number, zlib.crc32(name.encode())]).standard_normal()
            figures[name] = min(max(value * math.exp(math.sqrt(math.log1p(error**2)) * draw), limit.low), limit.high)
    return machine.with_figures(figures)
