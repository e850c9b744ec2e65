"""Executes layer steps on a real device under a policy, with the decisions of the engines and real copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from policies.base import Prefetch
from policies.needs import Need
from sim.engine.decision.device import Device, DeviceSpec, Plan, decides
from sim.execution.backend import Backend
from sim.execution.host_experts import HostExperts
from sim.execution.link import Link
from sim.execution.pacing import now_ns
from sim.execution.slots import Slots
from sim.execution.step_clock import StepClock
from sim.machine.parts import CPU_WAIT, EXPERT, HOST, LINK_WAIT
from traces.errors import UserError

if TYPE_CHECKING:
    import torch

Weights = tuple["torch.Tensor", ...]
Compute = Callable[[int, Weights], Any]
"""From an expert and its weights to its output."""


class Executor:
    """One device with its copy thread, its CPU and its slots. Use it in a ``with`` block; all calls from one thread.

    ``source_of`` [L * E]: where in the host tier the weights of key layer * E + expert lie. Per step: ``load``; per
    layer ``begin`` -> Plan, ``start_cpu``, ``run`` -> outputs, ``end``.
    """

    def __init__(self, spec: DeviceSpec, backend_for: Callable[[int], Backend], source_of: Sequence[int]) -> None:
        if spec.hold:
            raise UserError("cache.overflow=hold has no clock, so nothing can run it: use stream")
        if Need.LOW_PRECISION in spec.policy.needs():
            raise UserError(f"policy {spec.policy.name}: a real run holds experts in one precision only")
        if spec.policy.write_back != "none":
            raise UserError(f"write_back={spec.policy.write_back}: a real run does not copy victims home; use none")
        if spec.host is not None:
            raise UserError("a real run holds every expert in memory: take a machine without storage_rates")
        self.spec, self.source_of = spec, [int(source) for source in source_of]
        self.device = Device(spec)
        self.slots = Slots(self.device)
        self.backend = backend_for(self.slots.total)
        self.link = Link(self.device, self.slots, self.backend, self.source_of)
        self.guard = self.link.guard
        self.cpu = HostExperts(self.guard, single_thread)
        self.clock = StepClock(self.backend)
        self.prefetches = decides(spec.policy.prefetch, Prefetch, "choose")
        self.layer = 0
        layout = self.backend.layout
        self.device_weights = [layout.views(self.backend.slots, slot) for slot in range(self.slots.total)]
        self.host_weights = {s: layout.views(self.backend.host, s) for s in sorted(set(self.source_of))}

    def __enter__(self) -> Self:
        self.link.start()
        self.cpu.start()
        self.fill()
        return self

    def __exit__(self, *error: Any) -> None:
        self.link.stop()
        self.cpu.stop()

    def fill(self) -> None:
        """Bring every resident expert into a slot, outside any measured time."""
        for key, slot in self.slots.settle():
            self.backend.fill(self.source_of[key], slot)
            self.slots.complete(slot)
        self.backend.synchronize()

    def enter_group(self, group: int) -> None:
        """Empty the slots, as at the start, if ``group`` is another lockstep batch."""
        with self.guard:
            self.link.hold()
            if self.device.enter_group(group):
                self.link.poked = False
                self.fill()
            self.link.resume()

    def load(self, step: tuple[NDArray[Any], ...], phase: int, group: int) -> None:
        """Begin a forward pass with the router output of its tokens."""
        with self.guard:
            self.device.load(step, phase, group)

    def begin(self, layer: int) -> Plan:
        """Decide one layer step; copies begin."""
        with self.guard:
            plan = self.device.begin(layer)
            self.layer = self.link.layer = layer
            self.link.arrived = set()
            if plan.demand_copies or self.prefetches:
                self.link.poke(now_ns())
        self.clock.mark(HOST)
        return plan

    def run(self, plan: Plan, compute: Compute) -> dict[int, Any]:
        """Execute a layer's experts, those first that are there -> the output of each, of the CPU's too."""
        self.clock.mark(EXPERT)
        outputs: dict[int, Any] = {}
        for index, expert in enumerate(plan.gpu_queue):
            if index >= plan.ready:
                self._wait_for(expert)
            slot = self.slots.where(self.layer, expert)
            outputs[expert] = compute(expert, self.device_weights[slot])
            self.backend.used(slot)
            self.clock.mark(EXPERT)
            if plan.may_release and self.device.releases(expert):
                self._release(expert)
        if plan.cpu_queue:
            with self.guard:
                outputs |= self.cpu.wait()
                self.link.cpu_computes = False
            self.clock.mark(CPU_WAIT)
        return outputs

    def start_cpu(self, plan: Plan, compute: Compute) -> None:
        """Let the CPU begin with its experts."""
        if not plan.cpu_queue:
            return
        base = self.layer * self.spec.num_experts

        def compute_on_host(expert: int) -> Any:
            return compute(expert, self.host_weights[self.source_of[base + expert]])

        with self.guard:
            self.link.cpu_computes = True
            self.cpu.start_layer(plan.cpu_queue, compute_on_host)

    def _wait_for(self, expert: int) -> None:
        with self.guard:
            self.link.wait_for(expert)
        self.clock.mark(LINK_WAIT)

    def _release(self, expert: int) -> None:
        """An expert that may not stay has been executed: its slot is free for the copies that wait for it."""
        with self.guard:
            self.device.finish_expert(expert)
            self.slots.release_staged(expert)
            self.link.poke(now_ns())
        self.clock.mark(HOST)

    def end(self) -> None:
        """Close the layer step."""
        with self.guard:
            self.link.check()
            self.device.end()
            if self.prefetches:
                self.link.poke(now_ns())
        self.clock.mark(HOST)
        self.clock.end_layer()


def single_thread() -> None:
    """One core for the calling thread's matmuls: the others belong to the copy thread and to CPU experts."""
    import torch

    torch.set_num_threads(1)
