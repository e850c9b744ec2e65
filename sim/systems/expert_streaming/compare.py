"""Both schemes on the same routing: one row per draw, and what the rows say together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.statistics.bootstrap import request_interval
from sim.systems.expert_streaming.baseline import expert_parallel
from sim.systems.expert_streaming.config import Settings
from sim.systems.expert_streaming.layer import Expert, Result, tokens_per_die
from sim.systems.expert_streaming.routing import Shape, buffered, drawn, fits, load_shape, sampled, waiting
from sim.systems.expert_streaming.scheme import expert_streaming
from sim.systems.timeline import Span
from traces.errors import UserError
from traces.format.trace import Trace

Metrics = dict[str, float | int | str | None]
Side = dict[str, float]
"""What `side` sums of one scheme over all iterations of one draw."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both schemes, one entry per draw; `experts`: mean active experts of an iteration of the baseline."""

    settings: Settings
    shape: Shape
    routing: str
    baseline: list[Side]
    streaming: list[Side]
    experts: float
    logs: dict[str, list[Span]]


def side(results: list[Result], tokens: int) -> Side:
    """Sums over iterations; the imbalance is the busiest die's computation over the mean."""
    compute = np.sum([result.compute_ns for result in results], axis=0)
    return {
        "tokens": tokens,
        "makespan_ns": sum(result.makespan_ns for result in results),
        "compute_ns": int(compute.sum()),
        "channel_ns": sum(sum(result.channel_ns) for result in results),
        "link_ns": sum(result.link_ns for result in results),
        "link_bytes": sum(result.link_bytes for result in results),
        "channel_bytes": sum(result.channel_bytes for result in results),
        "peak_bytes": max(sum(result.peak_bytes) for result in results),
        "peak_die_bytes": max(max(result.peak_bytes) for result in results),
        "imbalance": float(compute.max() / compute.mean()),
    }


def routing_of(settings: Settings, shape: Shape, trace: Trace | None) -> str:
    """Where the routing comes from: "trace" or "drawn".

    Raises: UserError where a trace is asked for and there is none, or its experts are not the model's.
    """
    usable = trace is not None and fits(trace, shape)
    if settings.routing == "trace" and not usable:
        has = "no trace is given" if trace is None else f"the trace has {trace.num_experts} experts, top {trace.top_k}"
        wants = f"{settings.model} needs {shape.num_experts} experts, top {shape.top_k}"
        raise UserError(f"system.routing=trace: {has}; {wants}, or system.routing=drawn")
    return "trace" if usable and settings.routing != "drawn" else "drawn"


def draws(settings: Settings, shape: Shape, trace: Trace | None) -> Iterator[NDArray[np.int64]]:
    """Routing [iterations, tokens, top_k] of each draw."""
    for draw in range(settings.draws):
        rng = np.random.default_rng([settings.seed, draw])
        if trace is not None:
            yield sampled(trace, settings.iterations, settings.tokens, rng)
        else:
            yield drawn(shape, settings.iterations, settings.tokens, settings.skew, rng)


def compare(settings: Settings, trace: Trace | None, timeline: bool = False) -> Comparison:
    """Run both schemes on every draw; where a timeline is kept, of the first iteration of the first draw."""
    shape = load_shape(settings.model)
    routing = routing_of(settings, shape, trace)
    machine, slicing, chiplets = settings.machine(), settings.slicing(), settings.rows * settings.columns
    expert = Expert(shape.hidden_size, shape.ffn, settings.weight_bytes, settings.activation_bytes)
    baseline: list[Side] = []
    streaming: list[Side] = []
    active, logs = [], {}
    for ids in draws(settings, shape, trace if routing == "trace" else None):
        counts = [tokens_per_die(step, shape.num_experts, chiplets) for step in ids]
        active += [np.count_nonzero(count.sum(axis=1)) for count in counts]
        first = timeline and not baseline
        whole = [
            expert_parallel(machine, expert, settings.baseline_slots, count, settings.tokens, first and i == 0)
            for i, count in enumerate(counts)
        ]
        held = settings.tokens + int(settings.slack * settings.tokens)
        steps = buffered(ids, shape.num_experts, settings.slack, settings.refill)
        counts = [tokens_per_die(step, shape.num_experts, chiplets) for step in steps]
        streamed = [
            expert_streaming(machine, expert, slicing, count, held, first and i == 0) for i, count in enumerate(counts)
        ]
        baseline.append(side(whole, settings.tokens * settings.iterations))
        waits = waiting(ids.shape[1], steps, settings.refill)
        streaming.append(side(streamed, sum(map(len, steps))) | {"waits": waits})
        if first:
            logs = {"baseline": whole[0].log or [], "streaming": streamed[0].log or []}
    return Comparison(settings, shape, routing, baseline, streaming, float(np.mean(active)), logs)


def _sums(sides: list[Side]) -> Side:
    return {name: float(sum(one[name] for one in sides)) for name in sides[0]}


def side_metrics(sides: list[Side], chiplets: int, iterations: int) -> Metrics:
    """Times and bytes per iteration, busy shares, and the most memory of any iteration."""
    sums, count = _sums(sides), len(sides) * iterations
    span = sums["makespan_ns"]
    return {
        "makespan_s.mean": span / count / 1e9,
        "time_s_per_token": span / sums["tokens"] / 1e9,
        "compute_utilisation": sums["compute_ns"] / span / chiplets,
        "channel_utilisation": sums["channel_ns"] / span / chiplets,
        "link_bytes.mean": sums["link_bytes"] / count,
        "channel_bytes.mean": sums["channel_bytes"] / count,
        "imbalance.mean": sums["imbalance"] / len(sides),
        "sram_peak_bytes": max(one["peak_bytes"] for one in sides),
        "sram_peak_die_bytes": max(one["peak_die_bytes"] for one in sides),
    }


def metrics(found: Comparison) -> Metrics:
    """Flat metrics of a comparison; the speed-up is one of tokens per second, its interval a bootstrap over draws."""
    settings, chiplets = found.settings, found.settings.rows * found.settings.columns
    schemes = {"baseline": found.baseline, "streaming": found.streaming}
    times = [np.array([one["makespan_ns"] / one["tokens"] for one in sides]) for sides in schemes.values()]
    low, high = request_interval(times[0], times[1])
    waited = _sums(found.streaming)
    of_schemes = {name: side_metrics(sides, chiplets, settings.iterations) for name, sides in schemes.items()}
    peaks = [max(one["peak_bytes"] for one in sides) for sides in schemes.values()]
    return {
        "label": "SIMULATED",
        "speedup": float(times[0].sum() / times[1].sum()),
        "speedup.low": low if settings.draws > 1 else None,
        "speedup.high": high if settings.draws > 1 else None,
        "sram_saved": 1 - peaks[1] / peaks[0],
        "active_experts.mean": found.experts,
        "waited_rate": waited["waits"] / waited["tokens"],
        **{f"{scheme}.{name}": value for scheme, row in of_schemes.items() for name, value in row.items()},
    }
