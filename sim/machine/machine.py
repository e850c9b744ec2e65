"""A computer and the software on it: what a time rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from sim.machine.figures import Parameter
from sim.machine.hardware import PARAMETERS as HARDWARE_PARAMETERS
from sim.machine.hardware import Hardware
from sim.machine.runtime import RUNTIME_PARAMETERS, Runtime

PARAMETERS: dict[str, Parameter] = HARDWARE_PARAMETERS | RUNTIME_PARAMETERS
"""Every number that a time rests on, of the hardware first. No name stands in both files."""
NO_COST = Runtime("no cost of software", sources={}, label="ESTIMATED")


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware and the runtime on it."""

    hardware: Hardware
    runtime: Runtime = NO_COST

    @property
    def name(self) -> str:
        return f"{self.hardware.name} with {self.runtime.name}"

    @property
    def uncertainty(self) -> dict[str, float]:
        """Relative standard errors of the figures of both."""
        return self.hardware.uncertainty | self.runtime.uncertainty

    def figure(self, name: str) -> Any:
        """A figure or setting of either. Raises: AttributeError where neither has it."""
        return getattr(self.hardware if hasattr(self.hardware, name) else self.runtime, name)

    def with_figures(self, figures: Mapping[str, Any]) -> Self:
        """The same with other figures, each in the file that holds it."""
        of_hardware = {name: value for name, value in figures.items() if hasattr(self.hardware, name)}
        of_runtime = {name: value for name, value in figures.items() if name not in of_hardware}
        return replace(
            self, hardware=replace(self.hardware, **of_hardware), runtime=replace(self.runtime, **of_runtime)
        )
