"""Several GPUs that share a model's layers: the `devices` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sim.ranges import Count, Range, check_ranges
from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class DevicesConfig:
    """How a model's layers are split over two GPUs of the machine, each with slots and a link of its own."""

    count: Annotated[int, Range(1, 2)] = 1
    """2: the first layers on one, the others on a second GPU of the same kind, which run by turns."""
    first_layers: Count | None = None
    """Layers of the first; None: half of them, rounded up."""
    second_link_bytes_per_s: Annotated[float | None, Range(0, above=True, null="as the first")] = None
    """Rate of the second one's link, as where it has fewer lanes."""
    handover_s: Annotated[float, Range(0, 1)] = 20e-6
    """Handing activations to the next GPU, beside their bytes over the slower link; once per step (ESTIMATED)."""

    def __post_init__(self) -> None:
        check_ranges(self, "devices.")
        if self.count == 1 and (self.first_layers is not None or self.second_link_bytes_per_s is not None):
            raise UserError("devices.first_layers and devices.second_link_bytes_per_s are of devices.count=2; use null")

    def cut(self, num_layers: int) -> int:
        """Layers of the first GPU. Raises: UserError where none is left for the second."""
        first = -(-num_layers // 2) if self.first_layers is None else self.first_layers
        if first >= num_layers:
            raise UserError(
                f"devices.count=2: {first} of {num_layers} MoE layers on the first GPU leave none for the second"
            )
        return first
