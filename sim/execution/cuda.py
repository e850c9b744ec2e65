"""A CUDA device: experts in pinned or pageable host memory, slots in GPU memory, a copy stream beside the computation.

The copy thread issues a copy and sleeps until its event; so a copy that the host knows to be done is done, and what is
computed needs no wait for it. The other way round a copy into a slot waits on the GPU for what still reads the slot.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from sim.execution.pacing import now_ns
from sim.execution.settings import RealSettings
from traces.errors import UserError

if TYPE_CHECKING:
    import torch

    from sim.execution.layout import ExpertLayout


def require_cuda() -> None:
    """Raises UserError where torch sees no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("device=cuda: torch sees no CUDA device here; device=cpu is allowed")


class CudaBackend:
    """One CUDA device; see ``sim.execution.backend.Backend``."""

    def __init__(self, settings: RealSettings, layout: ExpertLayout, host: torch.Tensor, num_slots: int) -> None:
        import torch

        require_cuda()
        self.layout, self.host = layout, host
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.slots = torch.ones(max(1, num_slots) * layout.stride, dtype=torch.uint8, device=self.device)
        self.computation = torch.cuda.current_stream(self.device)
        self.copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.last_use: dict[int, Any] = {}
        self.stamps: list[Any] = []
        self.num_stamps = 0
        self.choice = torch.zeros(64, dtype=torch.int32, device=self.device)
        self.choice_on_host = torch.zeros(64, dtype=torch.int32, pin_memory=True)
        self.synchronize()

    def duration_ns(self, num_bytes: int) -> int:
        """A real link is not paced."""
        return 0

    def _bytes(self, source: int, slot: int, part: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        stride, (first, last) = self.layout.stride, part
        target = self.slots[slot * stride + first : slot * stride + last]
        return target, self.host[source * stride + first : source * stride + last]

    def copy(self, source: int, slot: int, part: tuple[int, int], begin_ns: int) -> int:
        """One copy on the copy stream, after what still reads the slot -> when it ended."""
        import torch

        target, origin = self._bytes(source, slot, part)
        with torch.cuda.stream(self.copying):
            if slot in self.last_use:
                self.copying.wait_event(self.last_use[slot])
            target.copy_(origin, non_blocking=True)
            done = torch.cuda.Event(blocking=False)  # type: ignore[no-untyped-call]
            done.record(self.copying)
        done.synchronize()
        return now_ns()

    def fill(self, source: int, slot: int) -> None:
        """A copy outside any measured time."""
        target, origin = self._bytes(source, slot, (0, self.layout.stride))
        target.copy_(origin)

    def used(self, slot: int) -> None:
        """Note where the computation stands."""
        import torch

        if slot not in self.last_use:
            self.last_use[slot] = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.last_use[slot].record(self.computation)

    def stamp(self) -> Any:
        """An event on the computation's stream; events are used again from step to step."""
        import torch

        if self.num_stamps == len(self.stamps):
            self.stamps.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        event = self.stamps[self.num_stamps]
        self.num_stamps += 1
        event.record(self.computation)
        return event

    def elapsed_ns(self, stamps: list[Any]) -> list[int]:
        """Time on the GPU between one stamp and the next: idle time belongs to what ends with the later one."""
        stamps[-1].synchronize()
        self.num_stamps = 0
        return [round(before.elapsed_time(after) * 1e6) for before, after in itertools.pairwise(stamps)]

    def readback(self) -> None:
        """A small copy to the host, and the wait for it, as a router's choice needs."""
        self.choice_on_host.copy_(self.choice, non_blocking=True)
        self.computation.synchronize()

    def synchronize(self) -> None:
        """Wait for everything."""
        import torch

        torch.cuda.synchronize(self.device)
