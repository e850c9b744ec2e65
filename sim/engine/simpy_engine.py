"""The model on a SimPy clock: a GPU that runs layers one after the other, and a link that copies beside it.

Time is an integer number of nanoseconds. Where several things happen at the same instant, the end of a copy goes first:
a copy that ends when a layer looks up its experts has arrived. A link that is free takes up new work in the instant in
which the work appears. Issuing a demand copy costs the host time; prefetches are issued off the critical path.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import URGENT

from sim.durations import Durations
from sim.engine.core import DEMAND_COPY, IDLE, WAIT
from sim.engine.device import Device
from sim.rows import RowReader, StepData
from sim.steps import Step

PARTS = ("attention", "expert", "link", "cpu", "launch", "sync", "host")
"""Where a token's time goes: computing attention and other dense parts, computing experts (shared ones included),
waiting for a copy, waiting for the CPU, kernel launches, synchronisation and router read-back, host decisions."""
ATTENTION, EXPERT, LINK, CPU, LAUNCH, SYNC, HOST = range(len(PARTS))

Process = Generator[simpy.Event, Any, None]


class CopyEnd(simpy.Event):
    """The end of a copy: scheduled ahead of everything else that happens at the same instant."""

    def __init__(self, env: simpy.Environment, delay_ns: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        self.callbacks: list[Any] = []
        env.schedule(self, URGENT, delay_ns)


class SimpyEngine:
    """Drives one device through steps -> per step its latency by part, and the device's counters."""

    def __init__(self, device: Device, durations: Durations, reader: RowReader) -> None:
        self.device, self.durations, self.reader = device, durations, reader
        self.env = simpy.Environment(initial_time=0)
        self.parts = np.zeros(len(PARTS), dtype=np.int64)
        self.on_link: simpy.Event | None = None
        self.arrivals: dict[int, simpy.Event] = {}
        self.link_busy_ns = self.cpu_busy_ns = 0

    def replay(self, steps: Iterable[Step]) -> Iterator[tuple[Step, int, NDArray[np.int64]]]:
        """Yield (step, latency in ns, ns by part [7]) for each step in turn."""
        for step in steps:
            start = int(self.env.now)
            self.parts[:] = 0
            self.env.run(until=self.env.process(self._step(step, self.reader.read(step.rows))))
            yield step, int(self.env.now) - start, self.parts.copy()

    def _spend(self, *amounts: tuple[int, int]) -> Process:
        """Let the GPU's timeline advance by (part, ns) amounts, booked to their parts."""
        total = 0
        for part, amount_ns in amounts:
            self.parts[part] += amount_ns
            total += amount_ns
        if total:
            yield self.env.timeout(total)

    def _step(self, step: Step, data: StepData) -> Process:
        for layer in range(self.device.spec.num_layers):
            yield from self._layer(layer, step, data)
        yield from self._spend((ATTENTION, int(self.durations.head_ns[step.rows.size])))

    def _layer(self, layer: int, step: Step, data: StepData) -> Process:
        times, device, tokens = self.durations, self.device, step.rows.size
        attention_ns = times.attention_ns(layer, tokens, step.kv_tokens, step.attended_pairs)
        yield from self._spend(
            (ATTENTION, attention_ns), (LAUNCH, times.layer_launch_ns), (SYNC, times.readback_ns), (HOST, times.host_ns)
        )
        late = self.on_link
        plan = device.begin(layer, step.phase, data)
        ready, gpu_queue, cpu_queue = plan.ready, plan.gpu_queue.tolist(), plan.cpu_queue.tolist()
        cpu_done_ns = int(self.env.now) + self._cpu_ns(layer, cpu_queue)
        first_copy = len(gpu_queue) - plan.demand_copies
        self.arrivals = {expert: self.env.event() for expert in gpu_queue[first_copy:]}
        if first_copy > ready and late is not None:
            self.arrivals[gpu_queue[ready]] = late
        self._start_copy()
        yield from self._spend(
            (HOST, plan.demand_copies * times.link_call_ns), (EXPERT, int(times.shared_ns[layer, tokens]))
        )
        if not plan.giving_up:  # nobody waits for a single one of the ready experts: one event for all
            yield from self._run_experts(layer, gpu_queue[:ready])
            gpu_queue = gpu_queue[ready:]
        for expert in gpu_queue:
            if expert in self.arrivals:
                yield from self._wait(LINK, self.arrivals[expert])
            yield from self._run_experts(layer, [expert])
            device.executed(expert)
            self._start_copy()
        yield from self._spend((CPU, max(0, cpu_done_ns - int(self.env.now))))
        yield from self._spend((SYNC, times.sync_ns))
        device.end()
        self._start_copy()

    def _run_experts(self, layer: int, experts: list[int]) -> Process:
        """Execute experts on the GPU one after the other."""
        table, served = self.durations.expert_ns[layer], self.device.tokens_of
        compute_ns = sum(int(table[served[expert]]) for expert in experts)
        yield from self._spend((LAUNCH, len(experts) * self.durations.expert_launch_ns), (EXPERT, compute_ns))

    def _wait(self, part: int, event: simpy.Event) -> Process:
        if not event.processed:
            start = int(self.env.now)
            yield event
            self.parts[part] += int(self.env.now) - start

    def _cpu_ns(self, layer: int, experts: list[int]) -> int:
        """Time the CPU takes for its share of a layer, one expert after the other."""
        table = self.durations.cpu_expert_ns
        if not experts or table is None:
            return 0
        total = sum(int(table[layer, self.device.tokens_of[expert]]) for expert in experts)
        self.cpu_busy_ns += total
        return total

    def _start_copy(self) -> None:
        """If the link is free, start the next copy that is queued and finds a slot."""
        if self.on_link is not None:
            return
        code, layer, expert = self.device.next_copy()
        if code in (IDLE, WAIT):
            return
        self.on_link = self.arrivals[expert] if code == DEMAND_COPY else self.env.event()
        copy_ns = int(self.durations.copy_ns[layer])
        self.link_busy_ns += copy_ns
        CopyEnd(self.env, copy_ns).callbacks.append(self._end_copy)

    def _end_copy(self, _: simpy.Event) -> None:
        """The copy on the link has arrived: tell who waits for it, and go on with the next."""
        arrived, self.on_link = self.on_link, None
        self.device.copy_done()
        if arrived is not None:
            arrived.succeed()
        self._start_copy()
