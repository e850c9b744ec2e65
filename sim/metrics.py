"""From steps to numbers: one flat row of metrics and a table with one row per step.

Times are SIMULATED. Rates and bytes without prefix count all steps; ``prefill.`` and ``decode.`` count theirs. Times
per token are those of decode tokens: a batch step's time is each of its members'. None stands for what the replay
cannot know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE, PREFILL
from sim.build import Replay
from sim.engine.counters import COUNTERS
from sim.engine.simpy_engine import PARTS

Metrics = dict[str, float | int | str | None]
COLUMNS = ("group", "request", "phase", "num_tokens", "latency_ns", *(f"{part}_ns" for part in PARTS), *COUNTERS)
STALLS = ("link", "cpu", "launch", "sync", "host")


class StepTable:
    """Collects one row per step, int64 [S, columns], with the lost gate mass beside."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.rows: list[NDArray[np.int64]] = []
        self.members: list[NDArray[np.int64]] = []
        self.lost: list[float] = []

    def run(self, progress: Any = iter) -> None:
        """Replay everything; ``progress`` may wrap the iterator of steps."""
        counts, lost = self.replay.device.counts, self.replay.device.lost
        before, lost_before = counts.copy(), lost.copy()
        for step, latency_ns, parts in progress(self.replay.steps()):
            times = np.zeros(1 + len(PARTS), np.int64) if parts is None else np.append(latency_ns, parts)
            head = np.array([step.group, step.requests[0], step.phase, step.rows.size], np.int64)
            self.rows.append(np.concatenate([head, times, counts - before]))
            share = lost - lost_before
            self.lost.append(float(share[0] / share[1]) if share[1] else 0.0)
            self.members.append(step.requests)
            before[:], lost_before[:] = counts, lost

    def array(self) -> NDArray[np.int64]:
        """[S, len(COLUMNS)] int64."""
        return np.stack(self.rows) if self.rows else np.empty((0, len(COLUMNS)), np.int64)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of the per-step table; unknown times are left out."""
        array = self.array()
        columns: dict[str, NDArray[Any]] = {"step": np.arange(len(array))}
        for i, name in enumerate(COLUMNS):
            if self.replay.timed or not name.endswith("_ns"):
                columns[name] = array[:, i]
        if knows_gate_mass(self.replay):
            columns["lost_gate_mass"] = np.array(self.lost)
        return columns

    def metrics(self) -> Metrics:
        """The flat row of metrics."""
        table = dict(zip(COLUMNS, self.array().T, strict=True))
        lost = np.array(self.lost) if knows_gate_mass(self.replay) else None
        result = identity(self.replay)
        for prefix, chosen in (
            ("", np.ones(len(self.rows), np.bool_)),
            ("prefill.", table["phase"] == PREFILL),
            ("decode.", table["phase"] == DECODE),
        ):
            found = rates(table, chosen, self.replay) | {"lost_gate_mass": lost_mass(lost, table["num_tokens"], chosen)}
            result |= {f"{prefix}{name}": value for name, value in found.items()}
        result |= self._times(table)
        return result

    def requests(self) -> dict[str, NDArray[Any]]:
        """One row per request: batch, decode steps, and where there is a clock ttft_s, tpot_s and latency_s.

        Times count from the start of the request's batch. TTFT: until its prompt has been prefilled (NaN without
        recorded prompt). TPOT = (latency - TTFT) / decode steps, which includes waiting while other prompts of the
        batch are prefilled (NaN without decode steps).
        """
        count = self.replay.trace.num_requests
        steps, groups = np.zeros(count, np.int64), np.zeros(count, np.int64)
        first, last = np.full(count, np.nan), np.zeros(count)
        clock_ns, group = 0, -1
        for row, members in zip(self.rows, self.members, strict=True):
            if row[0] != group:
                group, clock_ns = int(row[0]), 0
            clock_ns += int(row[COLUMNS.index("latency_ns")])
            groups[members], last[members] = group, clock_ns / 1e9
            if row[COLUMNS.index("phase")] == DECODE:
                steps[members] += 1
            else:
                first[members] = clock_ns / 1e9
        result: dict[str, NDArray[Any]] = {"request": np.arange(count), "group": groups, "decode_steps": steps}
        if self.replay.timed:
            tpot = np.where(steps > 0, (last - np.nan_to_num(first)) / np.maximum(steps, 1), np.nan)
            result |= {"ttft_s": first, "tpot_s": tpot, "latency_s": last}
        return result

    def _times(self, table: dict[str, NDArray[np.int64]]) -> Metrics:
        timed, requests = self.replay.timed, self.requests()
        decode = table["phase"] == DECODE
        tokens = table["num_tokens"][decode]
        token_latency = np.repeat(table["latency_ns"][decode] / 1e9, tokens) if timed else np.empty(0)
        result: Metrics = {}
        for name in ("tpot_s", "ttft_s", "latency_s"):
            values = requests.get(name, np.empty(0))
            result |= summary(name, values[~np.isnan(values)])
        result |= summary("itl_s", token_latency)
        for part in PARTS:
            spent_ns = float((table[f"{part}_ns"][decode] * tokens).sum())
            value = spent_ns / 1e9 / int(tokens.sum()) if timed and tokens.size else None
            result[f"time_s_per_token.{part}"] = value
            if part in STALLS:
                result[f"stall_s_per_token.{part}"] = value
        clock_ns = float(table["latency_ns"].sum())
        result["link_utilisation"] = self.replay.link_busy_ns / clock_ns if timed and clock_ns else None
        result["cpu_utilisation"] = self.replay.cpu_busy_ns / clock_ns if timed and clock_ns else None
        result["simulated_s"] = clock_ns / 1e9 if timed else None
        return result


def lost_mass(lost: NDArray[np.float64] | None, tokens: NDArray[np.int64], chosen: Any) -> float | None:
    """Mean share of the router's weight, over tokens and layers, that was not executed as routed."""
    return float(np.average(lost[chosen], weights=tokens[chosen])) if lost is not None and chosen.any() else None


def knows_gate_mass(replay: Replay) -> bool:
    """Whether the weight that was not executed as routed can be told."""
    return replay.trace.topk_weights is not None or replay.device.spec.has_scores


def identity(replay: Replay) -> Metrics:
    """What was replayed, so that a row of metrics can stand alone."""
    return {
        "policy": replay.policy.name,
        "num_requests": replay.trace.num_requests,
        "num_tokens": replay.trace.num_tokens,
        "capacity_fraction": replay.pools.fraction,
        "capacity_slots_per_layer": replay.pools.slots(),
        "capacity_bytes": replay.pools.total_bytes,
    }


def ratio(part: float, whole: float) -> float | None:
    """part / whole, None where there is nothing to divide by."""
    return float(part / whole) if whole else None


def rates(table: dict[str, NDArray[np.int64]], chosen: Any, replay: Replay) -> Metrics:
    """Shares and amounts per token over the ``chosen`` steps."""
    total = {name: int(table[name][chosen].sum()) for name in (*COUNTERS, "num_tokens")}
    tokens, steps = total["num_tokens"], int(chosen.sum()) * replay.trace.num_layers
    loads = total["demand_copies"] + total["prefetch_copies"]
    slots = replay.pools.slots() * steps
    result: Metrics = {
        "hit_rate": ratio(total["hits"], total["demanded"]),
        "late_rate": ratio(total["late"], total["demanded"]),
        "cache_ratio": ratio(total["resident_executed"], total["executed"]),
        "substitution_rate": ratio(total["substituted_ranks"], total["routed_ranks"]),
        "drop_rate": ratio(total["dropped_ranks"], total["routed_ranks"]),
        "cpu_rate": ratio(total["cpu"], total["demanded"]),
        "bytes_per_token": ratio(total["copied_bytes"], tokens),
        "loads_per_token": ratio(loads, tokens),
        "prefetches_per_token": ratio(total["prefetch_copies"], tokens),
        "prefetch_precision": ratio(total["prefetch_used"] + total["prefetch_late"], total["prefetch_copies"]),
        "demand_to_capacity": ratio(total["demanded"], slots),
        "overflow_rate": ratio(total["overflow_steps"], steps),
    }
    return result


def summary(name: str, values: NDArray[np.float64]) -> Metrics:
    """Mean and quantiles (linear interpolation) of ``values``; None where there are none."""
    points = {"p50": 50, "p90": 90, "p99": 99}
    found: Metrics = {f"{name}.mean": float(values.mean()) if values.size else None}
    for key, q in points.items():
        found[f"{name}.{key}"] = float(np.percentile(values, q)) if values.size else None
    return found
