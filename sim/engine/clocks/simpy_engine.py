"""The model on a SimPy clock: a GPU process that runs layers one after the other, a link and a CPU beside it.

Time is an integer number of nanoseconds. Every copy (or chunk of one) and every expert on the CPU is an event. The GPU
keeps its own time, which may run ahead of SimPy's while no event that it could notice is pending, and catches up
where it has to know: at a lookup, while it waits, when an expert releases its slot, at the end of a layer. Where
several things happen at the same instant the link goes first, then the CPU, then the GPU; a free link takes up new work
in the instant in which it appears. Issuing a demand copy costs host time; issuing a prefetch does not.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from policies.base import Prefetch
from sim.engine.clocks.recorder import Recorder
from sim.engine.clocks.timeline_log import BACK_OVERLAP, BACK_SERIAL, WRITE_BACK
from sim.engine.decision.core import DEMAND_COPY, WAIT
from sim.engine.decision.counters import FULL
from sim.engine.decision.device import Copy, Device, DeviceSpec, decides
from sim.engine.interface import BlockResult
from sim.machine.attention import attention_time
from sim.machine.durations import Durations
from sim.machine.parts import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, PARTS, STORAGE_WAIT
from sim.machine.pieces import arrival
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


class Storage:
    """Reads experts one after the other, in the order in which it is asked.

    Nothing overtakes and nothing stops a read, so that its end is known when it is asked for and needs no event.
    """

    def __init__(self, durations: Durations, recorder: Recorder) -> None:
        self.read_ns, self.lead_ns, self.piece_ns = (
            times.tolist() for times in (durations.read_ns, durations.lead_ns, durations.piece_ns)
        )
        self.recorder, self.end_ns, self.busy_ns, self.cpu_wait_ns = recorder, 0, 0, 0
        self.ready_ns: dict[int, int] = {}
        """Expert of the current layer -> when it has been read."""

    def read(self, layer: int, expert: int, at_ns: int, prefetches: bool) -> int:
        """Ask for an expert -> when it has been read."""
        begin_ns = max(self.end_ns, at_ns)
        self.end_ns = begin_ns + self.read_ns[layer]
        self.busy_ns += self.read_ns[layer]
        self.recorder.read(layer, expert, begin_ns, self.end_ns, prefetches)
        return self.end_ns

    def read_missing(self, layer: int, experts: list[int], at_ns: int) -> None:
        """Ask for what a layer step misses and host memory lacks."""
        self.cpu_wait_ns = 0
        self.ready_ns = {expert: self.read(layer, expert, at_ns, False) for expert in experts}

    def serve_cpu(self, expert: int, at_ns: int) -> int:
        """When the CPU can begin with an expert that it turns to at a time."""
        ready_ns = max(at_ns, self.ready_ns.get(expert, at_ns))
        self.cpu_wait_ns += ready_ns - at_ns
        return ready_ns

    def send(self, copy: Copy, demanded: bool, at_ns: int, begin_ns: int, copy_ns: int) -> int:
        """When the copy of an expert ends that sends pieces as they are read, a prefetch's from now on."""
        layer = copy.layer
        ready_ns = self.ready_ns[copy.expert] if demanded else self.read(layer, copy.expert, at_ns, True)
        return arrival(begin_ns, copy_ns, ready_ns, self.lead_ns[layer], self.piece_ns[layer])


class SimpyEngine:
    """Replays blocks of one device on a SimPy clock."""

    def __init__(self, spec: DeviceSpec, durations: Durations, resets: bool, timeline: bool) -> None:
        self.device, self.times, self.resets = Device(spec), durations, resets
        self.recorder = Recorder(self.device, timeline)
        self.env = simpy.Environment(initial_time=0)
        self.num_experts = spec.num_experts
        self.reads = spec.host is not None
        self.prefetches = decides(spec.policy.prefetch, Prefetch, "choose")
        self.attention_ns, self.shared_ns = durations.attention_weights_ns.tolist(), durations.shared_ns.tolist()
        self.before_lookup_ns = int(durations.before_lookup_ns.sum())
        self.after_experts = [(part, spent) for part, spent in enumerate(durations.after_experts_ns.tolist()) if spent]
        self.layer_parts_ns = (durations.before_lookup_ns + durations.after_experts_ns).tolist()
        self.now_ns = self.layer = 0
        """Time and layer of the GPU."""
        self.parts = [0] * len(PARTS)
        self.copies_ns, self.write_back = durations.copies().tolist(), WRITE_BACK[spec.policy.write_back]
        self.link: End | None = None
        """The end of what the link does; None: it is free."""
        self.copying = -1
        """Key of the expert on the link, or -1."""
        self.begin_ns = self.end_ns = self.link_wait_ns = self.back_end_ns = self.link_busy_ns = 0
        self.arrived: dict[int, int] = {}
        """Experts of the current layer that arrived after its lookup -> what their copies waited for storage."""
        self.cpu_ns = durations.cpu_experts().tolist()
        self.cpu_transfer_ns = durations.cpu_transfer_ns.tolist()
        self.cpu: End | None = None
        """The end of the expert that the CPU computes; None: it is free."""
        self.cpu_queue: list[int] = []
        self.on_cpu = 0
        self.cpu_busy_ns = 0
        self.storage = Storage(durations, self.recorder)

    @property
    def storage_busy_ns(self) -> int:
        return self.storage.busy_ns

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps."""
        result, device, requests, passes = BlockResult.empty(block), self.device, block.num_requests(), block.passes()
        drafting_ns = self.times.drafting_ns(passes, requests)
        for step in range(len(block)):
            first, last = int(block.bounds[step]), int(block.bounds[step + 1])
            if self.resets and device.enter_group(int(block.group[step]), block.pool_bytes_of(step)):
                self.link, self.copying = None, -1
            self.now_ns += int(block.pause_ns[step])
            begin_ns, self.parts, before = self.now_ns, [0] * len(PARTS), device.totals()
            rows, pool_bytes = data.rows(first, last), block.pool_bytes_of(step)
            device.load(rows, int(block.phase[step]), int(block.group[step]), int(requests[step]), pool_bytes)
            drafting = (int(passes[step]), drafting_ns[step].tolist())
            tokens, kv_tokens, pairs = last - first, int(block.kv_tokens[step]), int(block.attended_pairs[step])
            self.env.run(until=self.env.process(self._step(tokens, kv_tokens, pairs, *drafting)))
            result.latency_ns[step] = self.now_ns - begin_ns
            result.parts_ns[step] = self.parts
            result.counts[step], result.lost[step] = device.totals_since(before)
        return result

    def take_log(self) -> NDArray[np.int64]:
        """The timeline's slices since the last call."""
        return self.recorder.take()

    def stop_log(self) -> None:
        """Keep no more slices."""
        self.recorder.on = False

    # The GPU

    def _step(self, tokens: int, kv_tokens: int, pairs: int, passes: int, drafting_ns: list[int]) -> Process:
        if passes and self.device.foresees:
            yield from self._catch_up()
            self.device.cache.set("link_left_ns", self.end_ns - self.now_ns if self.copying >= 0 else 0)
            self.device.foresee()
            self._start_copy(self.now_ns)
        if passes:
            self._draft(passes, drafting_ns)
        kv_ns = attention_time(0, kv_tokens, self.times.kv_ps_per_token, pairs, self.times.pair_ps)
        if self.device.streamed:
            yield from self._streamed(tokens, kv_ns)
        else:
            for layer in range(self.device.spec.num_layers):
                yield from self._layer(layer, tokens, kv_ns)
        for part, spent_ns in enumerate(self.layer_parts_ns):
            self.parts[part] += self.device.spec.num_layers * spent_ns
        self._spend(ATTENTION, int(self.times.head_ns[tokens]))
        yield self.env.timeout(self.now_ns - self.env.now)

    def _draft(self, passes: int, parts_ns: list[int]) -> None:
        """The passes of the draft ahead of a step."""
        for part, spent_ns in enumerate(parts_ns):
            self.recorder.draft(part, passes, self.now_ns, self.now_ns + spent_ns)
            self.parts[part] += spent_ns
            self.now_ns += spent_ns

    def _layer(self, layer: int, tokens: int, kv_ns: int) -> Process:
        """One layer: up to the lookup; copies, CPU and the experts that are there; those that arrive; the end."""
        times, device, recorder, begin_ns = self.times, self.device, self.recorder, self.now_ns
        attention_ns = self.attention_ns[layer][tokens] + kv_ns
        self.now_ns += attention_ns + self.before_lookup_ns
        if self.link is not None:
            yield from self._catch_up()
        left_ns = self.end_ns - self.now_ns if self.copying >= 0 else 0
        plan = device.begin(layer, left_ns, self.end_ns - self.begin_ns)
        if plan.stops_copy:
            self._stop_copy()
        self.layer, self.arrived, self.cpu_queue = layer, {}, plan.cpu_queue
        recorder.lookup(layer, tokens, begin_ns, self.now_ns)
        self.storage.read_missing(layer, plan.reads, self.now_ns)
        if plan.demand_copies or self.prefetches:
            self._start_copy(self.now_ns)
        if plan.cpu_queue:
            self._start_cpu(self.now_ns + self.cpu_transfer_ns[tokens])
        self._spend(HOST, plan.demand_copies * times.link_call_ns)
        if plan.cpu_queue and not times.cpu_overlaps_gpu:
            yield from self._wait_for_cpu()
        self._spend(EXPERT, self.shared_ns[layer][tokens])
        for index, expert in enumerate(plan.gpu_queue):
            if index == plan.ready and not times.run_on_arrival:
                yield from self._wait_for_copies(plan.gpu_queue[index:])
            if index >= plan.ready:
                yield from self._wait_for_copy(expert)
            run_ns = times.expert_launch_ns + plan.run_ns[index]
            if recorder.on:
                recorder.expert(layer, expert, self.now_ns, self.now_ns + run_ns)
            self.now_ns += run_ns
            if plan.may_release and device.releases(expert):
                yield from self._catch_up()
                device.finish_expert(expert)
                self._start_copy(self.now_ns)
        if self.cpu is not None:
            yield from self._wait_for_cpu()
        for part, spent_ns in self.after_experts:
            recorder.part(part, layer, self.now_ns, self.now_ns + spent_ns)
            self.now_ns += spent_ns
        if self.link is not None:
            yield from self._catch_up()
        if self.prefetches:
            device.cache.set("link_left_ns", self.end_ns - self.now_ns if self.copying >= 0 else 0)
        device.end()
        if self.prefetches:
            self._start_copy(self.now_ns)
        self.parts[ATTENTION] += attention_ns
        self.parts[LAUNCH] += len(plan.gpu_queue) * times.expert_launch_ns
        self.parts[EXPERT] += sum(plan.run_ns)

    def _streamed(self, tokens: int, kv_ns: int) -> Process:
        """All layers of a prompt that is streamed past the cache through two buffers, each of a whole layer's experts:
        while the GPU computes one layer the link fills the other buffer."""
        while self.link is not None:  # a copy that was under way
            yield self.link
        self._waited(LINK_WAIT)
        yield self.env.timeout(self.now_ns - self.env.now)
        buffers = simpy.Container(self.env, 2, 2)
        arrived = [self.env.event() for _ in range(self.device.spec.num_layers)]
        self.env.process(self._stream(buffers, arrived))
        for layer in range(self.device.spec.num_layers):
            self.layer, times = layer, self.times
            experts, run_ns = self.device.stream_layer(layer)
            self._spend(ATTENTION, self.attention_ns[layer][tokens] + kv_ns)
            self.now_ns += self.before_lookup_ns
            self._spend(HOST, times.link_call_ns)
            self._spend(EXPERT, self.shared_ns[layer][tokens])
            yield self.env.timeout(self.now_ns - self.env.now)
            yield arrived[layer]
            self._waited(LINK_WAIT)
            self._spend(LAUNCH, len(experts) * times.expert_launch_ns)
            self._spend(EXPERT, sum(run_ns))
            self.now_ns += sum(spent_ns for _, spent_ns in self.after_experts)
            yield self.env.timeout(self.now_ns - self.env.now)
            yield buffers.put(1)

    def _stream(self, buffers: simpy.Container, arrived: list[simpy.Event]) -> Process:
        """The link: the experts of one layer after the other, each into a free buffer."""
        for layer, event in enumerate(arrived):
            yield buffers.get(1)
            copy_ns = self.num_experts * self.copies_ns[FULL][0][layer]
            yield self.env.timeout(copy_ns)
            self.link_busy_ns += copy_ns
            event.succeed()

    def _spend(self, part: int, amount_ns: int, expert: int = 0) -> None:
        """Let the GPU's time advance, booked to a part; ``expert``: which one it waits for."""
        if self.recorder.on:
            self.recorder.part(part, self.layer, self.now_ns, self.now_ns + amount_ns, expert)
        self.parts[part] += amount_ns
        self.now_ns += amount_ns

    def _catch_up(self) -> Process:
        """Let everything happen that happens until the GPU's time, if any event is pending.

        With none pending nobody sees SimPy's clock lag behind the GPU's.
        """
        if self.link is not None or self.cpu is not None:
            yield self.env.timeout(self.now_ns - self.env.now)

    def _wait_for_copy(self, expert: int) -> Process:
        """Let the GPU wait until an expert has arrived."""
        while expert not in self.arrived:
            if self.link is None:
                raise RuntimeError("the GPU waits for an expert that nothing brings")
            yield self.link
        self._waited_for_copy(expert)

    def _waited_for_copy(self, expert: int) -> None:
        """The GPU has waited for an expert until now: for storage as far as the copy did, the rest for the link."""
        wait_ns = int(self.env.now) - self.now_ns
        if wait_ns > 0 and (late_ns := self.arrived.get(expert, 0)) > 0:
            self._spend(STORAGE_WAIT, min(wait_ns, late_ns), expert)
        self._waited(LINK_WAIT, expert)

    def _wait_for_copies(self, experts: list[int]) -> Process:
        """Let the GPU wait until experts have arrived, or until the next one needs a slot that they hold."""
        for expert in experts:
            while expert not in self.arrived and self.link is not None:
                yield self.link
            self._waited_for_copy(expert)

    def _wait_for_cpu(self) -> Process:
        """Let the GPU wait until the CPU has computed its experts."""
        while self.cpu is not None:
            yield self.cpu
        wait_ns = int(self.env.now) - self.now_ns
        if wait_ns > 0 and self.storage.cpu_wait_ns > 0:
            self._spend(STORAGE_WAIT, min(wait_ns, self.storage.cpu_wait_ns), self.on_cpu)
        self._waited(CPU_WAIT, self.on_cpu)

    def _waited(self, part: int, expert: int = 0) -> None:
        """The GPU has waited until now, unless its own time had run ahead further."""
        wait_ns = int(self.env.now) - self.now_ns
        if wait_ns > 0:
            self._spend(part, wait_ns, expert)

    # The CPU

    def _start_cpu(self, at_ns: int) -> None:
        """Let the CPU compute the next expert of its queue."""
        if not self.cpu_queue:
            self.cpu = None
            return
        expert, beside_copy = self.cpu_queue[0], int(self.copying >= 0)
        self.on_cpu = expert
        compute_ns = self.cpu_ns[beside_copy][self.layer][int(self.device.tokens_of[expert])]
        self.cpu_busy_ns += compute_ns
        at_ns = self.storage.serve_cpu(expert, at_ns)
        if self.recorder.on:
            self.recorder.cpu_expert(self.layer, expert, at_ns, at_ns + compute_ns)
        self.cpu = End(self.env, at_ns - self.env.now + compute_ns, CPU_SECOND, self._end_cpu)

    def _end_cpu(self, _: simpy.Event) -> None:
        """The CPU has finished an expert: go on with the next."""
        self.cpu_queue.pop(0)
        self._start_cpu(int(self.env.now))

    # The link

    def _start_copy(self, at_ns: int) -> None:
        """If the link is free, start the next copy that is queued and finds a slot."""
        if self.link is not None:
            return
        what = self.device.next_copy()
        if what <= WAIT:
            return
        copy = self.device.copy()
        self.copying = copy.layer * self.num_experts + copy.expert
        copy_ns = self.copies_ns[copy.kind][1 if self.cpu_queue else 0][copy.layer]
        begin_ns = at_ns + (copy.back_ns if self.write_back == BACK_SERIAL else 0)
        end_ns = begin_ns + copy_ns
        if self.reads and self.device.cache.get("copy_is_read"):
            end_ns = self.storage.send(copy, what == DEMAND_COPY, at_ns, begin_ns, copy_ns)
        self.begin_ns, self.end_ns, self.link_wait_ns = begin_ns, end_ns, end_ns - begin_ns - copy_ns
        self.back_end_ns = at_ns + copy.back_ns if self.write_back == BACK_OVERLAP else 0
        if self.recorder.on:
            self.recorder.copy(copy, what, at_ns, end_ns - copy_ns, end_ns)
        self.link = End(self.env, end_ns - int(self.env.now), LINK_FIRST, self._end_copy)

    def _end_copy(self, event: simpy.Event) -> None:
        """A copy or a chunk of one has arrived; the link goes on once the victims are written back."""
        if event is not self.link:
            return  # another lockstep batch has emptied the cache: the copy is void
        layer, expert = divmod(self.copying, self.num_experts)
        if self.device.finish_copy() and layer == self.layer:
            self.arrived[expert] = self.link_wait_ns
        now_ns = int(self.env.now)
        self.link_busy_ns += self.end_ns - self.begin_ns - self.link_wait_ns
        self.copying = -1
        if self.back_end_ns > now_ns:
            self.link = End(self.env, self.back_end_ns - now_ns, LINK_FIRST, self._free_link)
        else:
            self._free_link(event)

    def _stop_copy(self) -> None:
        """The copy on the link stops now; the link is free once the victims that made room for it are written back."""
        stop_ns = max(self.now_ns, self.begin_ns)
        self.link_busy_ns += max(0, stop_ns - self.begin_ns - self.link_wait_ns)
        self.recorder.stop_copy(self.copying, stop_ns)
        self.copying, self.link = -1, None
        free_ns = max(self.back_end_ns, self.begin_ns)
        if free_ns > self.now_ns:
            self.link = End(self.env, free_ns - int(self.env.now), LINK_FIRST, self._free_link)

    def _free_link(self, event: simpy.Event) -> None:
        if event is self.link:
            self.link = None
            self._start_copy(int(self.env.now))
