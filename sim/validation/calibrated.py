"""The machine of a prediction, with the uncertainty of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.machine.machine import Machine
from sim.machine.uncertainty import drawn_machine
from sim.validation.in_situ import Constants, Spread, fit, machine, repeat_spread, slower
from sim.validation.measure import passes
from sim.validation.plan import MOSTLY_HITS, MOSTLY_MISSES, Plan
from sim.validation.raw_runs import RawRun


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The machine of the prediction, machines of the bootstrap, and the spread between repeats of a calibrating run."""

    machine: Machine
    constants: Constants | None
    draws: tuple[Machine, ...]
    spread: Spread | None
    disturbed: bool
    """Calibrating runs did not pass the gate either: all of them were taken."""


def calibrate(plan: Plan, runs: Sequence[RawRun], gate: float, draws: int) -> Calibrated:
    """Fit the calibrating runs that passed the gate, all of them where none of a setting did."""
    kinds = [[run for run in runs if run.setting == name] for name in (MOSTLY_HITS, MOSTLY_MISSES)]
    good = [[run for run in kind if passes(run, gate)] for kind in kinds]
    disturbed = not all(good)
    hits, misses = kinds if disturbed else good
    constants = fit(plan, hits, misses)
    rng, spread, drawn = np.random.default_rng(0), repeat_spread(hits, misses), []
    for _ in range(draws if spread else 0):
        assert spread is not None
        resampled = [slower(kind, spread.of_mean(len(kind), rng)) for kind in (hits, misses)]
        drawn.append(fit(plan, resampled[0], resampled[1], constants, rounds=2))
    return Calibrated(
        machine(plan, constants),
        constants,
        tuple(machine(plan, drawn_constants) for drawn_constants in drawn),
        spread,
        disturbed,
    )


def calibrated_elsewhere(given: Machine, runs: Sequence[RawRun], draws: int) -> Calibrated:
    """A given machine; draws of its figures within the relative standard errors that its files state, if any."""
    spread = repeat_spread(*([run for run in runs if run.setting == name] for name in (MOSTLY_HITS, MOSTLY_MISSES)))
    drawn = tuple(drawn_machine(given, 0, number) for number in range(draws if given.uncertainty else 0))
    return Calibrated(given, None, drawn, spread, False)
