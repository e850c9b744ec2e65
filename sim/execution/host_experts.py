"""A thread that computes a queue of experts on the CPU, from the host's weights, in parallel to the device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sim.execution.pacing import now_ns


class HostExperts(threading.Thread):
    """Computes the experts of one layer in order. Shares the ``guard`` of the link, which it tells that it computes."""

    def __init__(self, guard: threading.Condition, prepare: Callable[[], Any]) -> None:
        super().__init__(name="host experts", daemon=True)
        self.guard, self.prepare = guard, prepare
        self.queue: list[int] = []
        self.compute: Callable[[int], Any] = lambda expert: None
        self.results: dict[int, Any] = {}
        self.busy = self.stopping = False
        self.busy_ns = 0
        self.failure: BaseException | None = None

    def start_layer(self, queue: list[int], compute: Callable[[int], Any]) -> None:
        """Begin with a layer's experts. The caller holds the guard."""
        self.queue, self.compute, self.results = list(queue), compute, {}
        if queue:
            self.guard.notify_all()

    def run(self) -> None:
        """Compute until stopped."""
        self.prepare()
        try:
            with self.guard:
                while not self.stopping:
                    if self.queue:
                        self._compute_next()
                    else:
                        self.guard.wait()
        except BaseException as failure:
            with self.guard:
                self.failure, self.queue = failure, []
                self.guard.notify_all()

    def _compute_next(self) -> None:
        expert = self.queue[0]
        self.guard.release()
        try:
            begin_ns = now_ns()
            result = self.compute(expert)
            end_ns = now_ns()
        finally:
            self.guard.acquire()
        self.results[expert] = result
        self.busy_ns += end_ns - begin_ns
        self.queue.pop(0)
        if not self.queue:
            self.guard.notify_all()

    def wait(self) -> dict[int, Any]:
        """Wait until the layer's experts are computed -> their results. The caller holds the guard."""
        while self.queue:
            self.guard.wait()
        if self.failure is not None:
            raise RuntimeError("the thread that computes experts on the CPU failed") from self.failure
        return self.results

    def stop(self) -> None:
        """End the thread."""
        with self.guard:
            self.stopping = True
            self.guard.notify_all()
        self.join()
