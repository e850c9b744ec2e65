"""The model on a SimPy clock: a GPU process that runs layers one after the other, a link and a CPU beside it.

Time is an integer number of nanoseconds. Every copy (or piece of one) and every expert on the CPU is an event. The GPU
keeps its own time, which may run ahead of SimPy's while nothing is on its way that it could notice, and catches up
where it has to know: at a lookup, while it waits, when an expert gives something up, at the end of a layer. Where
several things happen at the same instant the link goes first, then the CPU, then the GPU; a free link takes up new work
in the instant in which it appears. Issuing a demand copy costs the host time; prefetches are issued beside it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.durations import Durations
from sim.engine.core import DEMAND_COPY, WAIT, decode_copy
from sim.engine.counters import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, PARTS, SYNC
from sim.engine.device import Device, DeviceSpec
from sim.engine.timing import (
    BACK_NONE,
    BACK_OVERLAP,
    BACK_SERIAL,
    LOG_BACK,
    LOG_COPY,
    LOG_CPU,
    LOG_EXPERT,
    LOG_LAYER,
    LOG_PREFETCH,
    WRITE_BACK,
)
from sim.replay import BlockResult
from sim.rows import BlockData
from sim.steps import StepBlock

LINK_FIRST, CPU_SECOND = -1, 0
"""Priorities of events at the same instant; SimPy's own timeouts come after both."""

Process = Generator[simpy.Event, Any, None]


class End(simpy.Event):
    """The end of something that began now: happens after ``delay_ns``, in the order that ``priority`` gives."""

    def __init__(self, env: simpy.Environment, delay_ns: int, priority: int, callback: Any) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        self.callbacks: list[Any] = [callback]
        env.schedule(self, priority, delay_ns)  # type: ignore[arg-type]


class SimpyEngine:
    """Replays blocks of one device on a SimPy clock."""

    def __init__(self, spec: DeviceSpec, durations: Durations, resets: bool, timeline: bool) -> None:
        self.device, self.times, self.resets = Device(spec), durations, resets
        self.env = simpy.Environment(initial_time=0)
        self.now_ns = 0
        self.parts = [0] * len(PARTS)
        self.num_experts = spec.num_experts
        self.link: End | None = None
        self.copying = -1
        self.copy_ns = self.back_end_ns = 0
        self.cpu: End | None = None
        self.cpu_queue: list[int] = []
        self.arrived: set[int] = set()
        self.layer = 0
        self.write_back = WRITE_BACK[spec.policy.write_back]
        self.copies_ns, self.cpu_ns = durations.copies().tolist(), durations.cpu_experts().tolist()
        self.experts_ns, self.dequantise_ns = durations.expert_ns.tolist(), durations.dequantise_ns.tolist()
        self.predicts_late = spec.policy.prediction.available_at_end()
        self.link_busy_ns = self.cpu_busy_ns = 0
        self.log: list[tuple[int, int, int, int, int]] | None = [] if timeline else None

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps."""
        result, device = BlockResult.empty(block), self.device
        for step in range(len(block)):
            first, last = int(block.bounds[step]), int(block.bounds[step + 1])
            if self.resets and device.enter_group(int(block.group[step])):
                self.link, self.copying = None, -1
            begin_ns, self.parts = self.now_ns, [0] * len(PARTS)
            result.counts[step], result.lost[step] = -device.counts, -device.lost
            device.load(data.rows(first, last), int(block.phase[step]), int(block.group[step]))
            tokens, kv_tokens, pairs = last - first, int(block.kv_tokens[step]), int(block.attended_pairs[step])
            self.env.run(until=self.env.process(self._step(tokens, kv_tokens, pairs)))
            result.latency_ns[step] = self.now_ns - begin_ns
            result.parts_ns[step] = self.parts
            result.counts[step] += device.counts
            result.lost[step] += device.lost
        return result

    def take_log(self) -> NDArray[np.int64]:
        """The timeline's slices since the last call."""
        found = np.array(self.log or [], np.int64).reshape(-1, 5)
        if self.log is not None:
            self.log = []
        return found

    def _note(self, *row: int) -> None:
        if self.log is not None:
            self.log.append(row)  # type: ignore[arg-type]

    def _spend(self, part: int, amount_ns: int) -> None:
        """Let the GPU's time advance, booked to a part."""
        self.parts[part] += amount_ns
        self.now_ns += amount_ns

    def _catch_up(self) -> Process:
        """Let everything happen that happens until the GPU's time, if anything is on its way."""
        if self.link is not None or self.cpu is not None:
            yield self.env.timeout(self.now_ns - self.env.now)

    def _wait(self, part: int, event: simpy.Event) -> Process:
        yield event
        self._spend(part, max(0, int(self.env.now) - self.now_ns))

    def _step(self, tokens: int, kv_tokens: int, pairs: int) -> Process:
        for layer in range(self.device.spec.num_layers):
            yield from self._layer(layer, tokens, kv_tokens, pairs)
        self._spend(ATTENTION, int(self.times.head_ns[tokens]))
        yield self.env.timeout(max(0, self.now_ns - self.env.now))

    def _layer(self, layer: int, tokens: int, kv_tokens: int, pairs: int) -> Process:
        times, device, begin_ns = self.times, self.device, self.now_ns
        self._spend(ATTENTION, times.attention_ns(layer, tokens, kv_tokens, pairs))
        self._spend(LAUNCH, times.layer_launch_ns)
        self._spend(SYNC, times.readback_ns)
        self._spend(HOST, times.host_ns)
        yield from self._catch_up()
        self._note(LOG_LAYER, layer, begin_ns, self.now_ns, tokens)
        plan = device.begin(layer)
        self.layer, self.arrived = layer, set()
        self.cpu_queue = plan.cpu_queue.tolist()
        self._start_copy(self.now_ns)
        self._start_cpu(self.now_ns)
        self._spend(HOST, plan.demand_copies * times.link_call_ns)
        self._spend(EXPERT, int(times.shared_ns[layer, tokens]))
        for index, expert in enumerate(plan.gpu_queue.tolist()):
            while index >= plan.ready and expert not in self.arrived:
                yield from self._wait(LINK_WAIT, self._on_link())
            self._run_expert(expert)
            if device.gives_up(expert, plan):
                yield from self._catch_up()
                device.executed(expert)
                self._start_copy(self.now_ns)
        while self.cpu is not None:
            yield from self._wait(CPU_WAIT, self.cpu)
        self._spend(SYNC, times.sync_ns)
        yield from self._catch_up()
        device.end()
        if self.predicts_late or self.link is None:
            self._start_copy(self.now_ns)

    def _on_link(self) -> End:
        if self.link is None:
            raise RuntimeError("the GPU waits for an expert that nothing brings")
        return self.link

    def _run_expert(self, expert: int) -> None:
        """Execute an expert on the GPU."""
        begin_ns, tokens = self.now_ns, int(self.device.tokens_of[expert])
        compute_ns = self.experts_ns[self.layer][tokens]
        if self.device.runs_low(expert):
            compute_ns += self.dequantise_ns[self.layer]
        self._spend(LAUNCH, self.times.expert_launch_ns)
        self._spend(EXPERT, compute_ns)
        self._note(LOG_EXPERT, self.layer * self.num_experts + expert, begin_ns, self.now_ns, tokens)

    def _start_cpu(self, at_ns: int) -> None:
        """Let the CPU compute the next expert of its queue."""
        if not self.cpu_queue:
            self.cpu = None
            return
        expert = self.cpu_queue[0]
        busy = int(self.copying >= 0)
        compute_ns = self.cpu_ns[busy][self.layer][int(self.device.tokens_of[expert])]
        self.cpu_busy_ns += compute_ns
        self._note(LOG_CPU, self.layer * self.num_experts + expert, at_ns, at_ns + compute_ns, 0)
        self.cpu = End(self.env, at_ns - self.env.now + compute_ns, CPU_SECOND, self._end_cpu)

    def _end_cpu(self, _: simpy.Event) -> None:
        """The CPU has finished an expert: go on with the next."""
        self.cpu_queue.pop(0)
        self._start_cpu(int(self.env.now))

    def _start_copy(self, at_ns: int) -> None:
        """If the link is free, start the next copy that is queued and finds a slot."""
        if self.link is not None:
            return
        code = self.device.next_copy()
        if code <= WAIT:
            return
        key, kind, what = decode_copy(code)
        back_ns = 0 if self.write_back == BACK_NONE else self.device.back_ns()
        copy_ns = self.copies_ns[kind][1 if self.cpu_queue else 0][key // self.num_experts]
        begin_ns = at_ns + (back_ns if self.write_back == BACK_SERIAL else 0)
        if back_ns:
            self._note(LOG_BACK, key, at_ns, at_ns + back_ns, 0)
        self._note(LOG_COPY if what == DEMAND_COPY else LOG_PREFETCH, key, begin_ns, begin_ns + copy_ns, kind)
        self.copying, self.copy_ns = key, copy_ns
        self.back_end_ns = at_ns + back_ns if self.write_back == BACK_OVERLAP else 0
        self.link = End(self.env, begin_ns + copy_ns - self.env.now, LINK_FIRST, self._end_copy)

    def _end_copy(self, event: simpy.Event) -> None:
        """A copy or a piece of one has arrived; the link goes on with the next once the victims are home."""
        if event is not self.link:
            return  # the replay began anew meanwhile
        layer, expert = divmod(self.copying, self.num_experts)
        if self.device.copy_done() and layer == self.layer:
            self.arrived.add(expert)
        now_ns = int(self.env.now)
        self.link_busy_ns += self.copy_ns
        self.copying = -1
        if self.back_end_ns > now_ns:
            self.link = End(self.env, self.back_end_ns - now_ns, LINK_FIRST, self._free_link)
        else:
            self._free_link(event)

    def _free_link(self, event: simpy.Event) -> None:
        if event is self.link:
            self.link = None
            self._start_copy(int(self.env.now))
