"""A prompt on the cluster of OD-MoE, in SimPy: every expert of a layer on some worker, mini-batches, no prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.systems.od_moe.cluster import Cluster, Process
from sim.systems.od_moe.times import Times
from sim.systems.timeline import Span


class Prefill(Cluster):
    """One prompt. Expert e runs on worker e % W; with more experts than workers, one round of experts after the other.

    The main node computes attention of one mini-batch after the other and sends each token to the workers of its
    experts; the next layer of a mini-batch begins when its results are back. A worker frees an expert when the last
    mini-batch has used it and loads its next one at once. Nothing is predicted: a prompt is taken to use every expert
    for which there is a demand, and those loads are known beforehand.

    `demand` [B, L, E]: tokens of each mini-batch that use an expert; fractions stand for an expected number.
    `batch_tokens` [B]: tokens of each mini-batch.
    """

    def __init__(
        self,
        times: Times,
        num_workers: int,
        batch_tokens: NDArray[np.int64],
        demand: NDArray[np.float64],
        timeline: list[Span] | None = None,
    ) -> None:
        super().__init__(times, timeline)
        self.num_workers, self.batch_tokens, self.demand = num_workers, batch_tokens, demand
        self.gpu = simpy.Resource(self.env, capacity=1)
        batches, layers, experts = demand.shape
        self.arrived = [[[self.env.event() for _ in range(experts)] for _ in range(layers)] for _ in range(batches)]
        self.returned = [[[self.env.event() for _ in range(experts)] for _ in range(layers)] for _ in range(batches)]

    def run(self) -> int:
        """Time until the first token, in ns."""
        for number in range(min(self.num_workers, self.times.num_experts)):
            self.env.process(self.worker(number))
        batches = [self.env.process(self.mini_batch(number)) for number in range(len(self.batch_tokens))]
        self.env.run(until=self.env.all_of(batches))
        return int(self.env.now) + self.times.head_ns

    def mini_batch(self, batch: int) -> Process:
        """All layers of one mini-batch on the main node."""
        context = int(self.batch_tokens[: batch + 1].sum())
        for layer in range(self.times.num_layers):
            with self.gpu.request() as turn:
                yield turn
                yield from self.spend(
                    "main", f"attention {layer}", self.times.attention_ns(int(self.batch_tokens[batch]), context)
                )
            for expert in range(self.times.num_experts):
                self.env.process(self.send_tokens(self.send, self.arrived[batch][layer][expert], batch, layer, expert))
            yield self.env.all_of(self.returned[batch][layer])

    def send_tokens(self, card: simpy.Resource, received: simpy.Event, batch: int, layer: int, expert: int) -> Process:
        """The hidden states of one expert's tokens through the main node's network card, if it has any."""
        wire_ns = round(float(self.demand[batch, layer, expert]) * self.times.message_ns)
        if wire_ns:
            yield from self.deliver(card, received, wire_ns)
        else:
            received.succeed()

    def worker(self, number: int) -> Process:
        """Load each expert of this worker that the prompt uses, layer by layer, and run its mini-batches in order."""
        for layer in range(self.times.num_layers):
            for expert in range(number, self.times.num_experts, self.num_workers):
                if self.demand[:, layer, expert].any():
                    self.loads += 1
                    yield from self.spend(f"worker {number} link", "load", self.times.load_ns)
                yield from self.run_expert(number, layer, expert)

    def run_expert(self, number: int, layer: int, expert: int) -> Process:
        """The mini-batches of one expert."""
        for batch in range(len(self.batch_tokens)):
            yield self.arrived[batch][layer][expert]
            duration_ns = self.times.experts_ns(float(self.demand[batch, layer, expert]))
            if duration_ns:
                yield from self.spend(f"worker {number} GPU", f"layer {layer}", duration_ns)
            returned = self.returned[batch][layer][expert]
            self.env.process(self.send_tokens(self.receive, returned, batch, layer, expert))


def serial_ns(times: Times, num_workers: int, batch_tokens: NDArray[np.int64], demand: NDArray[np.float64]) -> int:
    """Time until the first token if nothing overlaps: attention, load, hidden states out, experts, results back.

    One batch, one direction of the network at a time; `demand` and `batch_tokens` as `Prefill` takes them.
    """
    tokens, total_ns = int(batch_tokens.sum()), times.head_ns
    for layer in demand.sum(axis=0):  # [E]
        rounds = [layer[number::num_workers] for number in range(num_workers)]
        loads = max(int(np.count_nonzero(experts)) for experts in rounds)
        experts_ns = max(sum(times.experts_ns(float(count)) for count in experts) for experts in rounds)
        wire_ns = 2 * (round(float(layer.sum()) * times.message_ns) + times.latency_ns)
        total_ns += times.attention_ns(tokens, tokens) + loads * times.load_ns + wire_ns + experts_ns
    return total_ns


def even_demand(num_tokens: int, num_batches: int, times: Times) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(tokens [B], demand [B, L, E]) of a prompt whose tokens use every expert equally often, in mini-batches."""
    bounds = np.linspace(0, num_tokens, min(num_batches, num_tokens) + 1).round().astype(np.int64)
    tokens = np.diff(bounds)
    each = tokens * times.top_k / times.num_experts
    return tokens, np.broadcast_to(each[:, None, None], (len(tokens), times.num_layers, times.num_experts)).copy()


def routed_demand(
    topk_ids: NDArray[Any], num_batches: int, num_experts: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(tokens [B], demand [B, L, E]) of a recorded prompt, `topk_ids` [n, L, K], in mini-batches."""
    parts = np.array_split(topk_ids, min(num_batches, len(topk_ids)))
    counts = [
        [np.bincount(part[:, layer].ravel(), minlength=num_experts) for layer in range(topk_ids.shape[1])]
        for part in parts
    ]
    return np.array([len(part) for part in parts], np.int64), np.asarray(counts, np.float64)
