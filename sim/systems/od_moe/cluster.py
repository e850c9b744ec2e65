"""What a prompt and its decode steps have in common on the cluster of OD-MoE: the network, the clock, the timeline."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

from sim.systems.od_moe.times import Times
from sim.systems.timeline import Span

Process = Generator[simpy.Event, Any, None]


class Cluster:
    """The main node's network card, and what was done; spans of the timeline begin at `start_ns`."""

    def __init__(self, times: Times, timeline: list[Span] | None, start_ns: int = 0) -> None:
        self.times, self.timeline, self.start_ns = times, timeline, start_ns
        self.env = simpy.Environment()
        self.send, self.receive = (simpy.Resource(self.env, capacity=1) for _ in range(2))
        self.loads = self.sent_ns = 0

    def deliver(self, card: simpy.Resource, received: simpy.Event, wire_ns: int) -> Process:
        """A message through the main node's network card, one after the other in each direction."""
        with card.request() as turn:
            yield turn
            self.sent_ns += wire_ns
            yield from self.spend("network out" if card is self.send else "network in", "message", wire_ns)
        yield self.env.timeout(self.times.latency_ns)
        received.succeed(self.env.now)

    def spend(self, track: str, what: str, duration_ns: int) -> Process:
        """Let time pass and note it."""
        begin_ns = int(self.env.now)
        yield self.env.timeout(duration_ns)
        self.note(track, what, begin_ns)

    def note(self, track: str, what: str, begin_ns: int) -> None:
        """Write what has just ended into the timeline."""
        if self.timeline is not None:
            self.timeline.append((track, what, self.start_ns + begin_ns, self.start_ns + int(self.env.now)))
