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

from policies.base import Prefetch
from sim.engine.clocks.timeline_log import (
    BACK_NONE,
    BACK_OVERLAP,
    BACK_SERIAL,
    LOG_BACK,
    LOG_COPY,
    LOG_CPU,
    LOG_EXPERT,
    LOG_HELD,
    LOG_LAYER,
    LOG_OUTCOME,
    LOG_PART,
    LOG_PREFETCH,
    LOG_QUEUE,
    STAGED_COPY,
    WRITE_BACK,
)
from sim.engine.decision.core import DEMAND_COPY, WAIT, decode_copy
from sim.engine.decision.counters import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, PARTS, SYNC
from sim.engine.decision.device import Device, DeviceSpec, decides
from sim.engine.interface import BlockResult
from sim.machine.attention import attention_time
from sim.machine.durations import Durations
from sim.workload.rows import BlockData
from sim.workload.steps import StepBlock

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
        self.attention_ns, self.shared_ns = durations.attention_weights_ns.tolist(), durations.shared_ns.tolist()
        self.prefetches = decides(spec.policy.prefetch, Prefetch, "choose")
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

    def stop_log(self) -> None:
        """Keep no more slices."""
        self.log = None

    def _note(self, *row: int) -> None:
        if self.log is not None:
            self.log.append(row)  # type: ignore[arg-type]

    def _note_part(self, part: int, layer: int, begin_ns: int, end_ns: int, expert: int = 0) -> None:
        if self.log is not None and end_ns > begin_ns:
            self.log.append((LOG_PART, layer * self.num_experts + expert, begin_ns, end_ns, part))

    def _note_lookup(self, layer: int) -> None:
        """Keep what a lookup found: outcomes, queues, what occupies slots."""
        machine, arrays, now_ns = self.device.machine, self.device.machine_arrays, self.now_ns
        demand = self.device.arrays["demand"][: self.device.state.get("num_demand")].tolist()
        for expert, outcome in zip(demand, arrays["outcome"].tolist(), strict=False):
            self._note(LOG_OUTCOME, layer * self.num_experts + expert, now_ns, now_ns, outcome)
        waiting = [machine.get(f"{queue}_tail") - machine.get(f"{queue}_head") for queue in ("demand", "prefetch")]
        self._note(LOG_QUEUE, waiting[0], now_ns, now_ns, waiting[1])
        self._note(LOG_HELD, int(arrays["member_count"].sum()), now_ns, now_ns, int(arrays["used"].sum()))

    def _step(self, tokens: int, kv_tokens: int, pairs: int) -> Process:
        kv_ns = attention_time(0, kv_tokens, self.times.kv_ps_per_token, pairs, self.times.pair_ps)
        for layer in range(self.device.spec.num_layers):
            yield from self._layer(layer, tokens, kv_ns)
        head_ns = int(self.times.head_ns[tokens])
        self._note_part(ATTENTION, self.layer, self.now_ns, self.now_ns + head_ns)
        self.parts[ATTENTION] += head_ns
        self.now_ns += head_ns
        yield self.env.timeout(self.now_ns - self.env.now)

    def _layer(self, layer: int, tokens: int, kv_ns: int) -> Process:
        """One layer: up to the lookup; copies, CPU and the experts that are there; those that arrive; the end.

        ``self.now_ns`` is the GPU's time. Nothing on the way means that nobody sees SimPy's clock lag behind it.
        """
        times, device, parts, begin_ns = self.times, self.device, self.parts, self.now_ns
        attention_ns = self.attention_ns[layer][tokens] + kv_ns
        self.now_ns += attention_ns + times.layer_launch_ns + times.readback_ns + times.host_ns
        if self.link is not None:
            yield self.env.timeout(self.now_ns - self.env.now)
        self._note(LOG_LAYER, layer, begin_ns, self.now_ns, tokens)
        plan = device.begin(layer)
        if self.log is not None:
            self._note_lookup(layer)
        self.layer, self.arrived, self.cpu_queue = layer, set(), plan.cpu_queue
        if plan.demand_copies or self.prefetches:
            self._start_copy(self.now_ns)
        if plan.cpu_queue:
            self._start_cpu(self.now_ns)
        call_ns, shared_ns = plan.demand_copies * times.link_call_ns, self.shared_ns[layer][tokens]
        self._note_part(HOST, layer, self.now_ns, self.now_ns + call_ns)
        self.now_ns += call_ns
        self._note_part(EXPERT, layer, self.now_ns, self.now_ns + shared_ns)
        self.now_ns += shared_ns
        for index, expert in enumerate(plan.gpu_queue):
            if index >= plan.ready:
                yield from self._arrival(expert)
            run_ns = times.expert_launch_ns + plan.run_ns[index]
            if self.log is not None:
                served = int(device.tokens_of[expert])
                self._note(LOG_EXPERT, layer * self.num_experts + expert, self.now_ns, self.now_ns + run_ns, served)
            self.now_ns += run_ns
            if plan.may_give_up and device.gives_up(expert):
                yield from self._catch_up()
                device.executed(expert)
                self._start_copy(self.now_ns)
        if self.cpu is not None:
            while self.cpu is not None:
                yield self.cpu
            self._waited(CPU_WAIT, 0)
        self._note_part(SYNC, layer, self.now_ns, self.now_ns + times.sync_ns)
        self.now_ns += times.sync_ns
        yield from self._catch_up()
        device.end()
        if self.prefetches:
            self._start_copy(self.now_ns)
        parts[ATTENTION] += attention_ns
        parts[LAUNCH] += times.layer_launch_ns + len(plan.gpu_queue) * times.expert_launch_ns
        parts[SYNC] += times.readback_ns + times.sync_ns
        parts[HOST] += times.host_ns + call_ns
        parts[EXPERT] += shared_ns + sum(plan.run_ns)

    def _catch_up(self) -> Process:
        """Let everything happen that happens until the GPU's time, if anything is on its way."""
        if self.link is not None or self.cpu is not None:
            yield self.env.timeout(self.now_ns - self.env.now)

    def _arrival(self, expert: int) -> Process:
        """Let the GPU wait until an expert has arrived."""
        while expert not in self.arrived:
            if self.link is None:
                raise RuntimeError("the GPU waits for an expert that nothing brings")
            yield self.link
        self._waited(LINK_WAIT, expert)

    def _waited(self, part: int, expert: int) -> None:
        """The GPU has waited until now, if its own time had not run ahead further."""
        wait_ns = int(self.env.now) - self.now_ns
        if wait_ns > 0:
            self._note_part(part, self.layer, self.now_ns, self.now_ns + wait_ns, expert)
            self.parts[part] += wait_ns
            self.now_ns += wait_ns

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
        self._note_copy(key, kind, what, begin_ns, begin_ns + copy_ns)
        self.copying, self.copy_ns = key, copy_ns
        self.back_end_ns = at_ns + back_ns if self.write_back == BACK_OVERLAP else 0
        self.link = End(self.env, begin_ns + copy_ns - self.env.now, LINK_FIRST, self._end_copy)

    def _note_copy(self, key: int, kind: int, what: int, begin_ns: int, end_ns: int) -> None:
        if self.log is not None:
            staged = STAGED_COPY * self.device.machine.get("copy_staged")
            self._note(LOG_COPY if what == DEMAND_COPY else LOG_PREFETCH, key, begin_ns, end_ns, kind + staged)

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
