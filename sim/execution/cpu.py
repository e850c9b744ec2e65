"""A device in RAM: a copy thread fills the slots over an optionally paced link."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from sim.execution.pacing import now_ns, paced_copy
from sim.execution.settings import RealSettings

if TYPE_CHECKING:
    import torch

    from sim.execution.layout import ExpertLayout


class CpuBackend:
    """Host arena to slot arena by memory copies in chunks; a paced link is EMULATED."""

    def __init__(self, settings: RealSettings, layout: ExpertLayout, host: torch.Tensor, num_slots: int) -> None:
        import torch

        self.settings, self.layout, self.host = settings, layout, host
        self.device = torch.device("cpu")
        self.slots = torch.empty(max(1, num_slots) * layout.stride, dtype=torch.uint8)
        self.slots.fill_(1)  # touches every page
        self.clock = np.zeros(2, np.int64)
        self.copy(0, 0, (0, min(64, layout.stride)), now_ns())  # compiles

    def duration_ns(self, num_bytes: int) -> int:
        """What the paced link takes; 0: not paced."""
        rate = self.settings.link_bytes_per_s
        return 0 if rate is None else round((self.settings.link_latency_s + num_bytes / rate) * 1e9)

    def copy(self, source: int, slot: int, part: tuple[int, int], begin_ns: int) -> int:
        """One copy over the link -> when it ended."""
        (first, last), stride = part, self.layout.stride
        target, origin = self.slots.data_ptr() + slot * stride, self.host.data_ptr() + source * stride
        duration_ns = self.duration_ns(last - first)
        return int(paced_copy(target + first, origin + first, last - first, begin_ns, duration_ns, self.clock))

    def fill(self, source: int, slot: int) -> None:
        """A copy outside any measured time."""
        stride = self.layout.stride
        self.slots[slot * stride : (slot + 1) * stride] = self.host[source * stride : (source + 1) * stride]

    def used(self, slot: int) -> None:
        """Nothing: computations have ended when they return."""

    def stamp(self) -> int:
        return now_ns()

    def elapsed_ns(self, stamps: list[int]) -> list[int]:
        """Differences."""
        return [after - before for before, after in itertools.pairwise(stamps)]

    def readback(self) -> None:
        """Nothing: the host computes the router's choice itself."""

    def synchronize(self) -> None:
        """Nothing."""
