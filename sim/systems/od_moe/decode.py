"""Decoding on the cluster of OD-MoE, in SimPy: a main node, a shadow that announces, worker groups in round robin."""

from __future__ import annotations

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.systems.od_moe.cluster import Cluster, Process
from sim.systems.od_moe.times import Times
from sim.systems.timeline import Span


class Decode(Cluster):
    """One request's decode steps. Global layer step s is layer s % L of step s // L; group s % G computes it.

    The main node runs attention and router, sends the hidden state to the k workers of the group and waits for their
    results. A worker that has computed frees its expert and loads the one announced for its group's next layer step;
    if the router then wants another, it loads that afresh. The shadow announces layer after layer; before a step in
    which it is aligned it waits for the main node's last token. Loads run ahead of a token as far as the shadow does.

    After a run: `stall_ns` [T, L], what a layer waited beyond t_W; `outcomes` of the demanded experts: hit (loaded
    before the hidden state came), late (announced rightly, still loading), miss (loaded after routing).

    `wrong` [T, L, k]: whether worker i of the group is told the wrong expert. `predicts`: False loads after routing.
    `shadow_ns`: of one layer of the shadow; 0 announces everything at once. `token_period`, `kv_period`: steps between
    alignments, 0 for never.
    """

    def __init__(
        self,
        times: Times,
        wrong: NDArray[np.bool_],
        context: int,
        *,
        predicts: bool = True,
        shadow_ns: int = 0,
        token_period: int = 1,
        kv_period: int = 1,
        abort: bool = True,
        timeline: list[Span] | None = None,
        start_ns: int = 0,
    ) -> None:
        super().__init__(times, timeline, start_ns)
        self.wrong, self.context, self.abort, self.predicts = wrong, context, abort, predicts
        self.num_steps, self.num_layers = wrong.shape[0], wrong.shape[1]
        self.shadow_ns = shadow_ns
        self.periods = (token_period, kv_period)
        count = self.num_steps * self.num_layers
        self.announced = self._events(count)
        self.arrived = [self._events(times.top_k) for _ in range(count)]
        self.returned = [self._events(times.top_k) for _ in range(count)]
        self.finished = self._events(self.num_steps)
        self.step_end_ns: list[int] = []
        self.loaded_ns = 0
        self.outcomes = {"hit": 0, "late": 0, "miss": 0}
        self.stall_ns = np.zeros((self.num_steps, self.num_layers), np.int64)

    def _events(self, count: int) -> list[simpy.Event]:
        return [self.env.event() for _ in range(count)]

    def run(self) -> NDArray[np.int64]:
        """Latency of every decode step in ns, [T]."""
        if self.predicts:
            self.env.process(self.shadow())
        for group in range(self.times.num_groups):
            for place in range(self.times.top_k):
                self.env.process(self.worker(group, place))
        self.env.run(until=self.env.process(self.main()))
        return np.diff(np.asarray(self.step_end_ns, np.int64), prepend=np.int64(0)).astype(np.int64)

    def main(self) -> Process:
        """Attention and router, then the workers of a group, layer by layer; the LM head at the end of a step."""
        times = self.times
        for step in range(self.num_steps):
            for layer in range(self.num_layers):
                duration_ns = times.attention_ns(1, self.context + step + 1)
                yield from self.spend("main", f"attention {layer}", duration_ns)
                now = step * self.num_layers + layer
                for place in range(times.top_k):
                    self.env.process(self.deliver(self.send, self.arrived[now][place], times.message_ns))
                sent_ns = self.env.now
                yield self.env.all_of(self.returned[now])
                self.stall_ns[step, layer] = self.env.now - sent_ns - times.worker_ns
            yield from self.spend("main", "LM head", times.head_ns)
            self.step_end_ns.append(int(self.env.now))
            self.finished[step].succeed()

    def shadow(self) -> Process:
        """Announce every layer step; wait for the main node before a step that begins with an alignment."""
        for step in range(self.num_steps):
            due = [period > 0 and step > 0 and step % period == 0 for period in self.periods]
            if any(due):
                yield self.finished[step - 1]
                wire_ns = self.times.align_token_ns * due[0] + self.times.align_kv_ns * self.periods[1] * due[1]
                aligned = self.env.event()
                self.env.process(self.deliver(self.send, aligned, wire_ns))
                yield aligned
            for layer in range(self.num_layers):
                if self.shadow_ns:
                    yield from self.spend("shadow", f"layer {layer}", self.shadow_ns)
                self.announced[step * self.num_layers + layer].succeed()

    def worker(self, group: int, place: int) -> Process:
        """Load, wait for the hidden state, compute, return; then the group's next layer step."""
        name = f"worker {group * self.times.top_k + place}"
        for now in range(group, len(self.arrived), self.times.num_groups):
            arrived = self.arrived[now][place]
            yield self.announced[now] | arrived
            wrong = bool(self.wrong[now // self.num_layers, now % self.num_layers, place])
            if wrong and not arrived.triggered:
                yield from self.load_wrong(name, arrived)
                yield arrived
            routed = arrived.triggered
            yield from self.load(name, "load after routing" if routed else "load")
            ready_ns = self.env.now
            arrived_ns = yield arrived
            self.outcomes["miss" if routed else "late" if ready_ns > arrived_ns else "hit"] += 1
            yield from self.spend(f"{name} GPU", f"layer {now % self.num_layers}", self.times.expert_ns)
            self.env.process(self.deliver(self.receive, self.returned[now][place], self.times.message_ns))

    def load(self, name: str, what: str) -> Process:
        """One whole expert over the worker's own link."""
        self.loads += 1
        self.loaded_ns += self.times.load_ns
        yield from self.spend(f"{name} link", what, self.times.load_ns)

    def load_wrong(self, name: str, arrived: simpy.Event) -> Process:
        """Load what was announced; stop when the router's choice arrives, if wrong loads are given up."""
        begin_ns = int(self.env.now)
        done = self.env.timeout(self.times.load_ns)
        yield (done | arrived) if self.abort else done
        self.loads += 1
        self.loaded_ns += int(self.env.now) - begin_ns
        self.note(f"{name} link", "wrong load", begin_ns)
