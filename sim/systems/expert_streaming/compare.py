"""Both schemes on the same routing: one row per draw, and what the rows say together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.statistics.bootstrap import request_interval
from sim.systems.expert_streaming.baseline import expert_parallel
from sim.systems.expert_streaming.config import Settings
from sim.systems.expert_streaming.layer import Expert, Result, tokens_per_die
from sim.systems.expert_streaming.routing import Shape, buffered, drawn, fits, load_shape, sampled, waiting
from sim.systems.expert_streaming.scheme import expert_streaming
from traces.errors import UserError
from traces.format.trace import Trace

Metrics = dict[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Side:
    """One scheme over all iterations of one draw; peaks are those of the whole package."""

    tokens: int
    makespan_ns: int
    compute_ns: int
    channel_ns: int
    link_ns: int
    link_bytes: int
    channel_bytes: int
    peak_bytes: int
    peak_die_bytes: int
    imbalance: float
    waits: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both schemes, one entry per draw; `experts`: mean active experts of an iteration of the baseline."""

    settings: Settings
    shape: Shape
    routing: str
    baseline: list[Side]
    streaming: list[Side]
    experts: float
    logs: dict[str, list[tuple[str, str, int, int]]]


def side(results: list[Result], tokens: int) -> Side:
    """Sums over iterations; the imbalance is the busiest die's computation over the mean."""
    compute = np.sum([result.compute_ns for result in results], axis=0)
    return Side(
        tokens=tokens,
        makespan_ns=sum(result.makespan_ns for result in results),
        compute_ns=int(compute.sum()),
        channel_ns=sum(sum(result.channel_ns) for result in results),
        link_ns=sum(result.link_ns for result in results),
        link_bytes=sum(result.link_bytes for result in results),
        channel_bytes=sum(result.channel_bytes for result in results),
        peak_bytes=max(sum(result.peak_bytes) for result in results),
        peak_die_bytes=max(max(result.peak_bytes) for result in results),
        imbalance=float(compute.max() / compute.mean()),
    )


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
    found = Comparison(settings, shape, routing, [], [], 0.0, {})
    machine, slicing, chiplets = settings.machine(), settings.slicing(), settings.rows * settings.columns
    expert = Expert(shape.hidden_size, shape.ffn, settings.weight_bytes, settings.activation_bytes)
    active = []
    for ids in draws(settings, shape, trace if routing == "trace" else None):
        counts = [tokens_per_die(step, shape.num_experts, chiplets) for step in ids]
        active += [np.count_nonzero(count.sum(axis=1)) for count in counts]
        first = timeline and not found.baseline
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
        found.baseline.append(side(whole, settings.tokens * settings.iterations))
        waits = waiting(ids.shape[1], steps, settings.refill)
        found.streaming.append(replace(side(streamed, sum(map(len, steps))), waits=waits))
        if first:
            found.logs.update(baseline=whole[0].log or [], streaming=streamed[0].log or [])
    return Comparison(settings, shape, routing, found.baseline, found.streaming, float(np.mean(active)), found.logs)


def _total(sides: list[Side], field: str) -> float:
    return float(sum(getattr(one, field) for one in sides))


def side_metrics(sides: list[Side], chiplets: int, iterations: int) -> Metrics:
    """Times and bytes per iteration, busy shares, and the most memory of any iteration."""
    span, count = _total(sides, "makespan_ns"), len(sides) * iterations
    return {
        "makespan_s.mean": span / count / 1e9,
        "time_s_per_token": span / _total(sides, "tokens") / 1e9,
        "compute_utilisation": _total(sides, "compute_ns") / span / chiplets,
        "channel_utilisation": _total(sides, "channel_ns") / span / chiplets,
        "link_bytes.mean": _total(sides, "link_bytes") / count,
        "channel_bytes.mean": _total(sides, "channel_bytes") / count,
        "imbalance.mean": _total(sides, "imbalance") / len(sides),
        "sram_peak_bytes": max(one.peak_bytes for one in sides),
        "sram_peak_die_bytes": max(one.peak_die_bytes for one in sides),
    }


def metrics(found: Comparison) -> Metrics:
    """Flat metrics of a comparison; the speed-up is one of tokens per second, its interval a bootstrap over draws."""
    settings, chiplets = found.settings, found.settings.rows * found.settings.columns
    times = [np.array([one.makespan_ns / one.tokens for one in sides]) for sides in (found.baseline, found.streaming)]
    low, high = request_interval(times[0], times[1])
    baseline, streaming = (
        side_metrics(sides, chiplets, settings.iterations) for sides in (found.baseline, found.streaming)
    )
    saved = 1 - max(one.peak_bytes for one in found.streaming) / max(one.peak_bytes for one in found.baseline)
    return {
        "label": "SIMULATED",
        "speedup": float(times[0].sum() / times[1].sum()),
        "speedup.low": low if settings.draws > 1 else None,
        "speedup.high": high if settings.draws > 1 else None,
        "sram_saved": saved,
        "active_experts.mean": found.experts,
        "waited_rate": _total(found.streaming, "waits") / _total(found.streaming, "tokens"),
        **{f"baseline.{name}": value for name, value in baseline.items()},
        **{f"streaming.{name}": value for name, value in streaming.items()},
    }
