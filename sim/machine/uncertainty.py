"""Machines that are as plausible as a stated one: its figures within the errors that its files state; and how much of
each part of the time rests on each figure."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from sim.config import TimeConfig
from sim.machine.durations import Durations, tabulate
from sim.machine.machine import PARAMETERS, Machine
from sim.machine.parts import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, PARTS, STORAGE_WAIT
from sim.machine.storage import Reading
from traces.format.trace import Geometry

STEP = 0.01
"""Relative change of a figure by which `elasticities` tries it."""


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


def elasticities(
    geometry: Geometry, machine: Machine, time: TimeConfig, resident: bool, reading: Reading | None = None
) -> dict[str, dict[str, float]]:
    """Uncertain figure -> part of the time -> relative change of the part over that of the figure, at the stated value.

    1 where the whole part grows with the figure, -1 where it falls with it (a rate), 0 where something else decides;
    parts that a figure does not touch are left out. Of one decode token, each kind of work done once per layer: what a
    longer wait hides or shows is left to replays on plausible machines. ``resident``, ``reading``: as in ``tabulate``.
    """
    stated = _part_times(tabulate(geometry, machine, 1, time, resident=resident, reading=reading))
    found: dict[str, dict[str, float]] = {}
    for name, error in machine.uncertainty.items():
        value, parameter = machine.figure(name), PARAMETERS[name]
        if not error > 0 or not value or parameter.whole:
            continue
        limit = parameter.limit
        moved = next((v for v in (value * (1 + STEP), value * (1 - STEP)) if limit.low <= v <= limit.high), value)
        changed = _part_times(
            tabulate(geometry, machine.with_figures({name: moved}), 1, time, resident=resident, reading=reading)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = (changed / stated - 1) / (moved / value - 1)
        parts = zip(PARTS, relative.tolist(), strict=True)
        found[name] = {part: round(one, 4) for part, one in parts if math.isfinite(one) and abs(one) > STEP**2}
    return found


def _part_times(durations: Durations) -> Any:
    """[parts] ns of a decode token in which every layer does each kind of work once."""
    layers = len(durations.copy_ns)
    times = layers * (durations.before_lookup_ns + durations.after_experts_ns).astype(np.float64)
    times[ATTENTION] += durations.attention_weights_ns[:, 1].sum() + durations.head_ns[1]
    times[EXPERT] += durations.expert_ns[:, 1].sum() + durations.shared_ns[:, 1].sum()
    times[LINK_WAIT] += durations.copy_ns.sum()
    times[STORAGE_WAIT] += durations.read_ns.sum()
    times[LAUNCH] += layers * durations.expert_launch_ns
    times[HOST] += layers * durations.link_call_ns
    if durations.cpu_expert_ns is not None:
        times[CPU_WAIT] += durations.cpu_expert_ns[:, 1].sum() + layers * durations.cpu_transfer_ns[1]
    return times
