"""One point of a published series simulated, and the figures at which calibrating points are met."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.assignment.cpu_only import CpuOnly
from policies.base import Policy
from policies.state import DECODE
from scripts.studies.tiers.series import STORAGE, Point, Protocol, Series
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, assemble
from sim.cards.synthesis import Wish, synthetic_trace
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.host_store import HostConfig
from sim.machine.machine import Machine
from sim.machine.model import geometry
from sim.machine.runtime import load_runtime
from sim.metrics.step_table import Columns, Metrics, StepTable
from sim.validation.published.corpus.sizes import bits_of, find_model, sized
from traces.errors import UserError
from traces.format.trace import Geometry, Trace

MOST_TOKENS = 1024
"""Drawn where a series states its hits instead of its length."""
ROUNDS = 4
SSD_CPU = "ssd_cpu"


@cache
def trace_of(card: str, prompt: int, tokens: int, layers: int, experts: int, top_k: int) -> Trace:
    """One request drawn from a card in the shape of a model."""
    return synthetic_trace(Wish(card, 1, tokens, prompt or None, layers, experts, top_k))


def sizes_of(series: Series, point: Point, machine: Machine) -> Geometry:
    """Sizes of a point's model.

    What its layers in GPU memory read, and what their launches take, is added to what every token reads.
    """
    known = find_model(series.model)
    bits = None if known is None else bits_of(series.quantisation, known)
    if known is None or bits is None:
        raise UserError(f"{series.name}: the sizes of {series.model} {series.quantisation} are not known")
    sizes, layers = geometry(sized(known, bits, point.top_k)), point.host_layers or series.host_layers
    if layers is None:
        return sizes
    assert sizes.expert_bytes and sizes.attention_bytes and sizes.shared_bytes and sizes.other_bytes is not None
    here = sum(sizes.expert_bytes[layers:]) * sizes.top_k + sum(sizes.attention_bytes[layers:])
    launches_s = (sizes.num_layers - layers) * (machine.figure("graph_launch_s") or 0.0)
    here += round(launches_s * machine.hardware.gpu_memory_bytes_per_s * machine.runtime.gpu_memory_share)
    return replace(
        sizes,
        num_layers=layers,
        expert_bytes=sizes.expert_bytes[:layers],
        attention_bytes=sizes.attention_bytes[:layers],
        shared_bytes=sizes.shared_bytes[:layers],
        other_bytes=sizes.other_bytes + here + sum(sizes.shared_bytes[layers:]),
    )


def policy_of(series: Series, point: Point) -> Policy:
    """The policy of a series; without slots nothing is kept, and what computes on the CPU computes all of it there."""
    if series.policy == SSD_CPU:
        return replace(load_policy("lru"), name=SSD_CPU, assignment=CpuOnly(), residency="none")
    policy = load_policy(series.policy)
    if point.slots > 0:
        return policy
    if policy.prefetch.promotes:
        policy = replace(load_policy("lru"), assignment=CpuOnly())
    return replace(policy, residency="none")


def machine_of(series: Series, values: dict[str, float]) -> Machine:
    """The machine of a series with fitted figures."""
    machine = Machine(load_hardware(series.hardware), load_runtime(series.runtime)).with_figures(series.figures)
    factor = values.get(STORAGE)
    if factor is not None and machine.hardware.storage_rates:
        rates = [(*row[:2], row[2] * factor, row[3] * factor) for row in machine.hardware.storage_rates]
        machine = machine.with_figures({"storage_rates": rates})
    return machine.with_figures({name: value for name, value in values.items() if name != STORAGE})


def steps_of(series: Series, point: Point, values: dict[str, float], protocol: Protocol) -> tuple[Columns, Metrics]:
    """Columns of the decode steps of a run, and its metrics."""
    machine = machine_of(series, values)
    sizes = sizes_of(series, point, machine)
    trace = trace_of(series.card, protocol.prompt, protocol.tokens, sizes.num_layers, sizes.num_experts, sizes.top_k)
    slots = max(1, round(point.slots * sizes.num_experts))
    host = HostConfig()
    if point.host_share is not None:
        share = int(point.host_share * sum(sizes.expert_bytes or ()) * sizes.num_experts)
        host = HostConfig(bytes=share, start=protocol.start)
    setup = DeviceSetup(
        policy_of(series, point),
        machine,
        CacheConfig(slots_per_layer=slots, start=protocol.start),
        RunConfig(engine="compiled"),
        host=host,
    )
    table = StepTable(assemble(trace, setup, sizes)).run()
    columns = table.columns()
    decodes = columns["phase"] == DECODE
    return {name: column[decodes] for name, column in columns.items()}, table.metrics()


def replayed(series: Series, point: Point, values: dict[str, float]) -> dict[str, Any]:
    """Seconds per token as the source measured them, and both hit rates."""
    protocol = point.protocol or series.protocol
    if series.until_hits is not None and point.slots > 0:
        protocol = Protocol(0, tokens_until(series, point, values), 0, "cold")
    columns, metrics = steps_of(series, point, values, protocol)
    timed = slice(protocol.timed_from, None)
    seconds = float(columns["latency_ns"][timed].mean() / 1e9)
    hits, demanded = (int(columns[name][timed].sum()) for name in ("hits", "demanded"))
    return {"seconds": seconds, "hit_rate": hits / demanded, "host_hit_rate": metrics.get("host_hit_rate")}


def tokens_until(series: Series, point: Point, values: dict[str, float]) -> int:
    """Tokens from an empty cache whose hits are as stated.

    Raises: UserError where they are not within `MOST_TOKENS`.
    """
    columns, _ = steps_of(series, point, values, Protocol(0, MOST_TOKENS, 0, "cold"))
    reached = np.flatnonzero(columns["hits"].cumsum() >= (series.until_hits or 0.0) * columns["demanded"].cumsum())
    if not len(reached):
        raise UserError(f"{series.name}: hits of {series.until_hits} are not reached within {MOST_TOKENS} tokens")
    return int(reached[0]) + 1


def fitted(series: Series, known: dict[str, float]) -> dict[str, float]:
    """``known`` figures and those at which the calibrating points are as published, by Newton steps in costs: seconds,
    and one over rates."""
    if not series.fits:
        return known
    points = [point for point in series.points if point.calibrates]
    wanted = np.array([1 / point.measured for point in points])
    machine = machine_of(series, known)
    costs = np.array([1.0 if name == STORAGE else _cost(name, machine.figure(name)) for name in series.fits])

    def times(at: NDArray[np.float64]) -> NDArray[np.float64]:
        values = known | {name: _value(name, cost) for name, cost in zip(series.fits, at.tolist(), strict=True)}
        return np.array([replayed(series, point, values)["seconds"] for point in points])

    for _ in range(ROUNDS):
        now = times(costs)
        steps = np.diag(costs * 0.05)
        slopes = np.stack([(times(costs + step) - now) / step.sum() for step in steps], axis=1)
        costs = np.maximum(costs + np.linalg.lstsq(slopes, wanted - now, rcond=None)[0], costs * 0.05)
    return known | {name: _value(name, cost) for name, cost in zip(series.fits, costs.tolist(), strict=True)}


def _cost(name: str, value: float) -> float:
    return value if name.endswith(("_s", "_per_layer")) and not name.endswith("_per_s") else 1 / value


def _value(name: str, cost: float) -> float:
    return cost if name.endswith(("_s", "_per_layer")) and not name.endswith("_per_s") else 1 / cost
