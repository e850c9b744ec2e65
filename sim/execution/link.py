"""The copy thread: whenever the link is free it takes the next copy from the device and performs it."""

from __future__ import annotations

import threading

from sim.engine.decision.core import WAIT
from sim.engine.decision.counters import CHUNK
from sim.engine.decision.device import Device
from sim.execution.backend import Backend
from sim.execution.slots import Slots


class Link(threading.Thread):
    """One copy engine. ``guard`` protects device, slots and everything here; it is free while bytes move."""

    def __init__(self, device: Device, slots: Slots, backend: Backend, source_of: list[int]) -> None:
        super().__init__(name="link", daemon=True)
        self.decisions, self.slots, self.backend, self.source_of = device, slots, backend, source_of
        self.guard = threading.Condition()
        self.layer, self.num_experts = 0, device.spec.num_experts
        self.arrived: set[int] = set()
        """Experts of the current layer that have come since its lookup."""
        self.poked = self.busy = self.held = self.stopping = False
        self.poked_ns = self.free_ns = self.busy_ns = 0
        self.cpu_computes = False
        self.copies: list[tuple[int, int, int, int, int]] = []
        """(layer, bytes, begin_ns, end_ns, whether the CPU computed when it began) of every copy."""
        self.failure: BaseException | None = None
        self.chunks = device.spec.policy.prefetch.chunks()
        self.expert_bytes = backend.layout.stride

    def poke(self, at_ns: int) -> None:
        """There may be something to copy. The caller holds the guard."""
        if not self.busy:
            self.poked_ns = at_ns
        self.poked = True
        self.guard.notify_all()

    def run(self) -> None:
        """Copy until stopped."""
        try:
            with self.guard:
                while not self.stopping:
                    if self.held or not self.poked or not self._copy_next():
                        self.guard.wait()
        except BaseException as failure:
            with self.guard:
                self.failure, self.busy = failure, False
                self.guard.notify_all()

    def _copy_next(self) -> bool:
        """Perform the next copy -> whether there was one."""
        if self.decisions.next_copy() <= WAIT:
            self.poked = False
            return False
        layer, expert, kind, staged, _ = self.decisions.copy()
        key = layer * self.num_experts + expert
        slot = self.slots.place(key, bool(staged))
        part = self._part(self.decisions.cache.get("chunks_left")) if kind == CHUNK else (0, self.expert_bytes)
        begin_ns, beside = max(self.free_ns, self.poked_ns), int(self.cpu_computes)
        self.busy = True
        self.guard.release()
        try:
            end_ns = self.backend.copy(self.source_of[key], slot, part, begin_ns)
        finally:
            self.guard.acquire()
        self.busy = False
        # A paced link would have been free in time, even where its thread was late: it may catch up.
        paced_ns = self.backend.duration_ns(part[1] - part[0])
        self.free_ns = begin_ns + paced_ns if paced_ns else end_ns
        self.busy_ns += end_ns - begin_ns
        self.copies.append((layer, part[1] - part[0], begin_ns, end_ns, beside))
        whole = self.decisions.finish_copy()
        if whole:
            self.slots.complete(slot)
        if whole and layer == self.layer:
            self.arrived.add(expert)
            self.guard.notify_all()
        elif self.held:
            self.guard.notify_all()
        return True

    def _part(self, chunks_left: int) -> tuple[int, int]:
        """Bytes of the chunk that starts; the last one carries the remainder."""
        chunk = self.expert_bytes // self.chunks
        first = (self.chunks - chunks_left) * chunk
        return first, self.expert_bytes if chunks_left == 1 else first + chunk

    def wait_for(self, expert: int) -> None:
        """Let the main thread wait until an expert of the current layer has come. The caller holds the guard."""
        while expert not in self.arrived:
            self.check()
            if not self.busy and not self.poked:
                raise RuntimeError("an expert is waited for that nothing brings")
            self.guard.wait()

    def check(self) -> None:
        """Raise what ended the copy thread, if anything did."""
        if self.failure is not None:
            raise RuntimeError("the copy thread failed") from self.failure

    def hold(self) -> None:
        """Let the copy under way end and start no other. The caller holds the guard."""
        self.held = True
        while self.busy:
            self.guard.wait()
        self.check()

    def resume(self) -> None:
        """Go on. The caller holds the guard."""
        self.held = False
        self.guard.notify_all()

    def stop(self) -> None:
        """End the thread."""
        with self.guard:
            self.stopping = True
            self.guard.notify_all()
        self.join()
