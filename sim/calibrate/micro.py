"""Times single operations of a device, alone and in parallel, on weights that are in no processor cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.calibrate.samples import Sample
from sim.engine.decision.core import WAIT
from sim.engine.decision.device import Device, DeviceSpec
from sim.execution.backend import make_backend
from sim.execution.layout import ExpertLayout
from sim.execution.pacing import now_ns
from sim.execution.settings import RealSettings
from sim.execution.synthetic import SyntheticModel

if TYPE_CHECKING:
    import torch

SHARES = (0.25, 0.5, 1.0)
"""Sizes of experts and copies that are timed, of the stated one."""
TOKENS = (1, 2, 4, 8, 16, 32, 64)
CPU_TOKENS = (1, 8, 64)
COLD_BYTES = 128 * 2**20
"""Bytes that experts in a row exceed, so that none is in a processor cache."""
PAGEABLE_EXPERTS = 24
"""Experts in pageable memory beside those of the link."""
REPEATS = 6


class Bench:
    """Operations of a back end with slots of its own, on the host weights of ``model``."""

    def __init__(self, settings: RealSettings, model: SyntheticModel) -> None:
        self.settings, self.model = settings, model
        stride = model.layout.stride
        self.sources = model.host.numel() // stride
        self.num_slots = max(2, min(self.sources, -(-COLD_BYTES // stride)))
        self.backend = make_backend(settings, model.layout, model.host, self.num_slots)
        self.pageable = make_backend(
            replace(settings, link_bytes_per_s=None),
            model.layout,
            model.host[: PAGEABLE_EXPERTS * stride].clone(),
            PAGEABLE_EXPERTS,
        )
        for slot in range(self.num_slots):
            self.backend.fill(slot % self.sources, slot)
        self.turn = 0

    def all(self, number: int) -> Iterator[Sample]:
        """One round of everything."""
        yield from self.copies(number, "copy", self.backend, self.num_slots, self.sources)
        yield from self.copies(number, "pageable", self.pageable, PAGEABLE_EXPERTS, PAGEABLE_EXPERTS)
        yield from self.experts(number)
        yield from self.cpu_experts(number)
        yield self.readback(number)

    def _following(self, count: int) -> int:
        """The next expert of ``count``: by the time one comes again it has left every cache."""
        self.turn += 1
        return self.turn % count

    def copies(self, number: int, kind: str, backend: Any, slots: int, sources: int) -> Iterator[Sample]:
        """Copies of every size: ``copy`` over the link, ``pageable`` from ordinary memory as fast as it can."""
        for share in SHARES:
            size = int(self.model.layout.stride * share)
            took = [self._copy_s(backend, slots, sources, size) for _ in range(REPEATS)]
            yield Sample(kind, number, {"bytes": float(size), "seconds": float(np.median(took))})

    def _copy_s(self, backend: Any, slots: int, sources: int, size: int) -> float:
        slot, source = self._following(slots), self._following(sources)
        begin_ns = now_ns()
        return float(backend.copy(source, slot, (0, size), begin_ns) - begin_ns) * 1e-9

    def _weights(self, share: float) -> Callable[[], tuple[torch.Tensor, ...]]:
        """The next slot's bytes as an expert of a smaller width."""
        settings, stride = self.settings, self.model.layout.stride
        width, hidden, dtype = self._width(share), settings.hidden_size, self.model.dtype
        layout = ExpertLayout.of([((2 * width, hidden), dtype), ((hidden, width), dtype)])

        def following() -> tuple[torch.Tensor, ...]:
            slot = self._following(self.num_slots)
            return layout.views(self.backend.slots[slot * stride : (slot + 1) * stride], 0)

        return following

    def _width(self, share: float) -> int:
        return max(1, int(self.settings.expert_ffn * share))

    def _inputs(self, tokens: int) -> torch.Tensor:
        return self.model.inputs[np.arange(tokens) % len(self.model.inputs)]

    def experts(self, number: int) -> Iterator[Sample]:
        """Experts of several sizes on one token, and of full size on several; kind ``expert``."""
        cases = [(share, 1) for share in SHARES] + [(1.0, tokens) for tokens in TOKENS[1:]]
        for share, tokens in cases:
            size = 3 * self._width(share) * self.settings.hidden_size * self.settings.item_bytes
            seconds = self._computing_s(self._inputs(tokens), self._weights(share))
            yield Sample("expert", number, {"bytes": float(size), "tokens": float(tokens), "seconds": seconds})

    def _computing_s(self, state: Any, following: Callable[[], tuple[Any, ...]]) -> float:
        """Median time of one expert over some in a row."""
        weights = [following() for _ in range(REPEATS)]
        stamps = [self.backend.stamp()]
        for expert_weights in weights:
            self.model.expert(state, expert_weights)
            stamps.append(self.backend.stamp())
        return float(np.median(self.backend.elapsed_ns(stamps))) * 1e-9

    def cpu_experts(self, number: int) -> Iterator[Sample]:
        """Experts on the CPU from the host's weights while the device computes; the last of them beside copies too.

        Kinds ``cpu`` and, beside each other, ``cpu_beside_copy`` and ``copy_beside_cpu``.
        """
        for tokens in CPU_TOKENS:
            with self._device_busy():
                seconds = self._host_s(self._inputs(tokens).cpu())
            yield Sample("cpu", number, {"tokens": float(tokens), "seconds": seconds})
        with self._device_busy(), self._copying() as took:
            seconds = self._host_s(self._inputs(1).cpu())
        yield Sample("cpu_beside_copy", number, {"seconds": seconds})
        if took:
            yield Sample("copy_beside_cpu", number, {"seconds": float(np.median(took))})

    def _host_s(self, state: Any) -> float:
        took = []
        for _ in range(REPEATS):
            weights = self.model.layout.views(self.model.host, self._following(self.sources))
            begin = time.perf_counter()
            self.model.expert(state, weights)
            took.append(time.perf_counter() - begin)
        return float(np.median(took))

    @contextmanager
    def _copying(self) -> Iterator[list[float]]:
        """Copies one after the other in a thread of their own -> their times."""
        took: list[float] = []

        def once() -> None:
            begin_ns = now_ns()
            part = (0, self.model.layout.stride)
            took.append((self.backend.copy(len(took) % self.sources, 0, part, begin_ns) - begin_ns) * 1e-9)

        with repeated(once):
            yield took

    @contextmanager
    def _device_busy(self) -> Iterator[None]:
        """The device computes experts meanwhile, as it does when the CPU helps it."""
        following, state = self._weights(1.0), self._inputs(1)

        def once() -> None:
            self.model.expert(state, following())
            self.backend.synchronize()

        with repeated(once):
            yield

    def readback(self, number: int) -> Sample:
        """The router's choice on its way to the host."""
        took = []
        for _ in range(4 * REPEATS):
            self.backend.synchronize()
            begin = time.perf_counter()
            self.backend.readback()
            took.append(time.perf_counter() - begin)
        return Sample("readback", number, {"seconds": float(np.median(took))})


@contextmanager
def repeated(once: Callable[[], None]) -> Iterator[None]:
    """A thread that repeats something while the block lasts."""
    import torch

    stop = threading.Event()

    def work() -> None:
        torch.set_num_threads(1)
        while not stop.is_set():
            once()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def decisions(spec: DeviceSpec, steps: list[tuple[Any, ...]], number: int) -> Sample:
    """What the compiled decisions take per layer, driven from Python as the runtime drives them; nothing is copied."""
    device, spent = Device(spec), 0.0
    for rows in steps:
        device.load(rows, 1, 0)
        begin = time.perf_counter()
        for layer in range(spec.num_layers):
            decide(device, layer)
        spent += time.perf_counter() - begin
    return Sample("decision", number, {"seconds": spent / (len(steps) * spec.num_layers)})


def decide(device: Device, layer: int) -> None:
    """One layer step in which every copy arrives at once."""
    plan = device.begin(layer)
    waiting = list(plan.gpu_queue)
    while True:
        what = device.next_copy()
        if what > WAIT:
            device.finish_copy()
        elif what == WAIT:
            device.finish_expert(waiting.pop(0))
        else:
            break
    if plan.may_release:
        for expert in waiting:
            device.finish_expert(expert)
    device.end()
