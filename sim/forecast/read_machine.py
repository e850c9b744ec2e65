"""The machine that `hardware=` names: a file, or the names of its parts."""

from __future__ import annotations

from collections.abc import Mapping

from sim.forecast.machine_file import of_file
from sim.forecast.machine_parts import of_parts
from sim.forecast.machines import ForecastMachine
from sim.machine.hardware import hardware_names, load_hardware


def read_machine(words: str, shares: Mapping[str, float]) -> ForecastMachine:
    """The machine that `hardware=` names. ``shares``: of nominal rates that software reaches, FITTED, by name.

    Raises: UserError where no part of it is known, or where what a forecast needs is missing.
    """
    if words.endswith(".yaml") or words in hardware_names():
        return of_file(load_hardware(words), words, shares)
    return of_parts(words)
