"""Two GPUs that share a model's layers, or one that stores experts for the other: the `devices` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sim.ranges import Count, OneOf, Range, check_ranges
from traces.errors import UserError

HANDOVER_S = 20e-6
OF_SECOND = {
    "first_layers": "split",
    "handover_s": "split",
    "second_link_bytes_per_s": "",
    "peer_bytes_per_s": "store",
    "peer_bytes": "store",
}
"""What is stated of a second GPU alone -> the role that it belongs to, if to one."""


@dataclass(frozen=True, slots=True)
class DevicesConfig:
    """What a second GPU of the machine is for: layers of its own, with slots and a link, or a store of experts."""

    count: Annotated[int, Range(1, 2)] = 1
    """2: there is a second GPU of the same kind."""
    role: Annotated[str, OneOf("split", "store")] = "split"
    """``split``: it runs the last layers, by turns with the first; ``store``: it holds experts for the first, which
    copies them from there, and what it lacks comes from host memory over its link."""
    first_layers: Count | None = None
    """Layers of the first; None: half of them, rounded up."""
    second_link_bytes_per_s: Annotated[float | None, Range(0, above=True, null="as the first")] = None
    """Rate of the second one's link to host memory, as where it has fewer lanes."""
    peer_bytes_per_s: Annotated[float | None, Range(0, above=True)] = None
    """Rate of copies from the second GPU to the first, of ``role=store``."""
    peer_bytes: Count | None = None
    """Of the second GPU for experts, of ``role=store``; None: its memory without ``cache.workspace_bytes``."""
    handover_s: Annotated[float, Range(0, 1)] = HANDOVER_S
    """Handing activations to the next GPU, beside their bytes over the slower link; once per step (ESTIMATED)."""

    def __post_init__(self) -> None:
        check_ranges(self, "devices.")
        unstated = {name: HANDOVER_S if name == "handover_s" else None for name in OF_SECOND}
        given = [name for name in OF_SECOND if getattr(self, name) != unstated[name]]
        use = ["null" if unstated[name] is None else f"{unstated[name]:g}" for name in given]
        if self.count == 1 and self.role == "store":
            raise UserError("devices.role=store is of devices.count=2")
        if self.count == 1 and given:
            raise UserError(f"devices.{given[0]} is of devices.count=2; use {use[0]}")
        for name, instead in zip(given, use, strict=True):
            if OF_SECOND[name] not in (self.role, ""):
                raise UserError(f"devices.{name} is of devices.role={OF_SECOND[name]}; use {instead}")
        if self.role == "store" and self.peer_bytes_per_s is None:
            raise UserError("devices.role=store needs devices.peer_bytes_per_s, the rate of copies between the GPUs")

    @property
    def splits(self) -> bool:
        """Whether two GPUs run layers."""
        return self.count > 1 and self.role == "split"

    @property
    def stores(self) -> bool:
        """Whether a second GPU holds experts for the first."""
        return self.count > 1 and self.role == "store"

    def cut(self, num_layers: int) -> int:
        """Layers of the first GPU. Raises: UserError where none is left for the second."""
        first = -(-num_layers // 2) if self.first_layers is None else self.first_layers
        if first >= num_layers:
            raise UserError(
                f"devices.count=2: {first} of {num_layers} MoE layers on the first GPU leave none for the second"
            )
        return first
