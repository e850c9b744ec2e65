"""Tables of a phone's wall time: measured beside what the engine gives, whole, in parts, and from routing alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.eviction.lru import Lru
from sim.config import TimeConfig
from sim.machine.capacity import CacheConfig
from sim.validation.findings import STATISTICS, Row, fitted_rows, signed_error_percent, statistic_of
from sim.validation.published.big_moe_on_edge.phone import Phone, phone_machine
from sim.validation.published.big_moe_on_edge.stated_misses import trace_with_misses
from sim.validation.published.big_moe_on_edge.telemetry import Telemetry, Vector
from sim.validation.published.demand_replay import NO_COMPUTE, replay_demand
from traces.errors import UserError
from traces.format.trace import Geometry, Trace

MIB = 2**20
OVERLAP = TimeConfig(head=False)


def reads_of(run: Telemetry, geometry: Geometry) -> NDArray[np.int64]:
    """[T] experts read per token, from its bytes and the mean size of an expert."""
    return np.rint(run.read_bytes / np.mean(geometry.expert_bytes or (np.nan,))).astype(np.int64)


def from_reads(run: Telemetry, phone: Phone, geometry: Geometry, overlap: bool = False) -> Vector:
    """[T] milliseconds per token by the engine, which is told how many experts each token read."""
    reads = reads_of(run, geometry)
    trace = trace_with_misses(reads, geometry)
    cache = CacheConfig(slots_per_layer=geometry.num_experts // 2, start="warm")
    time = OVERLAP if overlap else NO_COMPUTE
    steps = replay_demand(trace, Lru(), cache, phone_machine(phone, geometry, overlap), time)
    if not np.array_equal(steps.copies, reads):
        raise UserError("the reads of the telemetry cannot be replayed: some token reads again what it has just read")
    return np.asarray(steps.latency_ns / 1e6, np.float64)


def wall_rows(
    name: str, use: str, runs: dict[str, Telemetry], predicted: Vector, interval: tuple[float, float] | None
) -> list[Row]:
    """Mean and quantiles of the wall time per token, beside those of the other run, which read exactly the same."""
    other = runs["a" if name == "b" else "b"]
    rows: list[Row] = []
    for statistic in STATISTICS:
        measured, model, repeat = (
            statistic_of(statistic, times) for times in (runs[name].wall_ms, predicted, other.wall_ms)
        )
        rows.append(
            {
                "run": name,
                "use": use,
                "statistic": statistic,
                "measured_ms": measured,
                "predicted_ms": model,
                "low": interval[0] if interval and statistic == "mean" else None,
                "high": interval[1] if interval and statistic == "mean" else None,
                "error_percent": signed_error_percent(model, measured),
                "other_run_percent": signed_error_percent(repeat, measured),
            }
        )
    return rows


def parts_rows(runs: dict[str, Telemetry], phone: Phone, geometry: Geometry) -> list[Row]:
    """Means of what the wall time consists of, measured and predicted for run b."""
    run = runs["b"]
    reads = float(reads_of(run, geometry).mean())
    predicted = {
        "computing": 1e3 * phone.compute_s,
        "waiting_for_flash": 1e3 * float(run.read_bytes.mean()) / phone.waited_bytes_per_s,
        "managing": 1e3 * (phone.manage_s + phone.manage_s_per_read * reads),
    }
    measured = {"computing": run.compute_ms, "waiting_for_flash": run.stall_ms, "managing": run.mgmt_ms}
    return [
        {
            "part": part,
            "measured_ms": float(measured[part].mean()),
            "predicted_ms": predicted[part],
            "error_percent": signed_error_percent(predicted[part], float(measured[part].mean())),
        }
        for part in predicted
    ]


def overlap_rows(
    runs: dict[str, Telemetry], phone: Phone, geometry: Geometry, predicted: dict[str, Vector]
) -> list[Row]:
    """What the mean would be if experts were computed while others are read: why that is not the model here."""
    rows: list[Row] = []
    for name, run in runs.items():
        for model, values in (
            ("a layer waits for all its reads", predicted[name]),
            ("experts overlap with reads", from_reads(run, phone, geometry, overlap=True)),
        ):
            error = signed_error_percent(float(values.mean()), float(run.wall_ms.mean()))
            rows.append({"run": name, "model": model, "predicted_ms": float(values.mean()), "error_percent": error})
    return rows


def routed_rows(trace: Trace, run: Telemetry, phone: Phone) -> list[Row]:
    """The published routing under the phone's budget beside as many first tokens of the run: two different prompts."""
    budget = run.settings["cache_mb"] * MIB
    cache = CacheConfig(bytes=budget, scope="global")
    steps = replay_demand(trace, Lru(), cache, phone_machine(phone, trace.geometry, False), NO_COMPUTE)
    tokens = min(int(steps.decode.sum()), len(run))
    decoded = np.flatnonzero(steps.decode)[:tokens]
    sizes = float(np.mean(trace.geometry.expert_bytes or (np.nan,)))
    until = slice(0, int(decoded[-1]) + 1)
    pairs = {
        "wall_ms_per_token": (run.wall_ms[:tokens].mean(), steps.latency_ns[decoded].mean() / 1e6),
        "read_mib_per_token": (run.read_bytes[:tokens].mean() / MIB, steps.copies[decoded].mean() * sizes / MIB),
        "hit_percent_prompt_included": (
            run.cache_hit_pct[tokens - 1],
            100 * steps.hits[until].sum() / steps.demanded[until].sum(),
        ),
    }
    return [
        {
            "quantity": name,
            "first_tokens": tokens,
            "measured": float(measured),
            "predicted": float(predicted),
            "error_percent": signed_error_percent(float(predicted), float(measured)),
        }
        for name, (measured, predicted) in pairs.items()
    ]


def constant_rows(phone: Phone) -> list[Row]:
    """The fitted constants in common units."""
    return fitted_rows(
        {
            "computing_ms_per_token": 1e3 * phone.compute_s,
            "flash_mb_per_s": phone.read_bytes_per_s / 1e6,
            "waited_mb_per_s": phone.waited_bytes_per_s / 1e6,
            "managing_ms_per_token": 1e3 * phone.manage_s,
            "managing_us_per_read": 1e6 * phone.manage_s_per_read,
        }
    )
