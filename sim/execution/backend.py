"""What a device has to offer to run a policy for real: memory for slots, copies, and stamps of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sim.execution.settings import RealSettings

if TYPE_CHECKING:
    import torch

    from sim.execution.layout import ExpertLayout


class Backend(Protocol):
    """One device. ``copy`` is called by the copy thread, ``host`` weights are read by it and by CPU experts,
    everything else belongs to the main thread."""

    device: torch.device
    slots: torch.Tensor
    """Bytes of all slots on the device."""
    host: torch.Tensor
    """Bytes of the host tier."""
    layout: ExpertLayout

    def copy(self, source: int, slot: int, part: tuple[int, int], begin_ns: int) -> int:
        """Copy a range of bytes of the host's expert ``source`` into a slot, from ``begin_ns`` on -> when it ended."""

    def duration_ns(self, num_bytes: int) -> int:
        """What a copy takes on a paced link; 0 where copies are as fast as they can."""

    def fill(self, source: int, slot: int) -> None:
        """Copy a whole expert at once, outside any measured time."""

    def used(self, slot: int) -> None:
        """Computations that were started until now read the slot: a later copy into it has to wait for them."""

    def stamp(self) -> Any:
        """A point in time of the device's computation."""

    def elapsed_ns(self, stamps: list[Any]) -> list[int]:
        """Time between one stamp and the next, [len(stamps) - 1]; waits until all are reached."""

    def readback(self) -> None:
        """Wait for the router's choice to reach the host."""

    def synchronize(self) -> None:
        """Wait until everything that was started has ended."""


def make_backend(settings: RealSettings, layout: ExpertLayout, host: torch.Tensor, num_slots: int) -> Backend:
    """The back end that ``settings.device`` names. ``host``: bytes of the host tier, [experts * layout.stride]."""
    if settings.device == "cuda":
        from sim.execution.cuda import CudaBackend

        return CudaBackend(settings, layout, host, num_slots)
    from sim.execution.cpu import CpuBackend

    return CpuBackend(settings, layout, host, num_slots)
