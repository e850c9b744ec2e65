"""The machine of a prediction, with the uncertainty of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sim.machine.hardware import Hardware
from sim.validation.in_situ import Constants, Spread, fit, machine, repeat_spread, slower
from sim.validation.measure import passes
from sim.validation.plan import MOSTLY_HITS, MOSTLY_MISSES, Plan
from sim.validation.raw_runs import RawRun


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The machine of the prediction, machines of the bootstrap, and the spread between repeats of a calibrating run."""

    hardware: Hardware
    constants: Constants | None
    draws: tuple[Hardware, ...]
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


def calibrated_elsewhere(hardware: Hardware, runs: Sequence[RawRun], draws: int) -> Calibrated:
    """A given machine; draws of its figures within the relative standard errors that its file states, if any."""
    spread = repeat_spread(*([run for run in runs if run.setting == name] for name in (MOSTLY_HITS, MOSTLY_MISSES)))
    rng, drawn = np.random.default_rng(0), []
    for _ in range(draws if hardware.uncertainty else 0):
        factors = {name: max(0.05, 1 + error * rng.standard_normal()) for name, error in hardware.uncertainty.items()}
        figures: dict[str, Any] = {
            name: getattr(hardware, name) * factor
            for name, factor in factors.items()
            if isinstance(getattr(hardware, name), float)
        }
        drawn.append(replace(hardware, **figures))
    return Calibrated(hardware, None, tuple(drawn), spread, False)
