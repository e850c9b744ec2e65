"""From steps to numbers: one flat row of metrics and a table with one row per step, in memory that does not grow.

Times are SIMULATED. Rates and bytes without prefix count all steps; ``prefill.`` and ``decode.`` count theirs. Times
per token are those of decode tokens: a batch step's time is each of its members'. Of drafts the accepted ones are
tokens. A metric that a replay cannot
know is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from policies.state import DECODE, PREFILL
from sim.assembly.replay import Replay
from sim.engine.decision.counters import COUNTERS
from sim.engine.interface import BlockResult
from sim.machine.parts import PARTS
from sim.metrics.drafts import draft_columns, token_times
from sim.metrics.quantiles import quantiles, total
from sim.metrics.registry import (
    GATE_MASSES,
    HOST_LINK_UTILISATION,
    PART_TIMES,
    PEER_RATES,
    PREFIXES,
    QUANTILES,
    RATES,
    REQUEST_TIMES,
    SPECULATION,
    STORAGE_TIMES,
    STORAGE_UTILISATION,
    TIER_RATES,
    TOKEN_TIME,
    TURN_TIMES,
    Metric,
)
from sim.metrics.request_times import RequestTimes
from sim.spill import Spill

Metrics = dict[str, float | int | str | None]
Columns = dict[str, NDArray[Any]]
COLUMNS = ("group", "request", "phase", "num_tokens", "latency_ns", *(f"{part}_ns" for part in PARTS), *COUNTERS)
NUM_TOKENS, LATENCY, FIRST_PART, FIRST_COUNTER = (
    COLUMNS.index(name) for name in ("num_tokens", "latency_ns", f"{PARTS[0]}_ns", COUNTERS[0])
)


class Sink(Protocol):
    """Takes the columns of the per-step table piece by piece."""

    def write(self, columns: Columns) -> None: ...


class Forget:
    """A sink that keeps no steps."""

    def write(self, columns: Columns) -> None: ...


class StepTable:
    """Adds up the steps of a replay as they come. With a ``sink`` they are passed on, without one kept in memory."""

    def __init__(self, replay: Replay, sink: Sink | None = None) -> None:
        self.replay, self.sink, self.length = replay, sink, 0
        self.kept: list[Columns] = []
        self.sums = np.zeros((2, len(COLUMNS)), np.int64)  # by phase
        self.steps = np.zeros(2, np.int64)  # by phase
        self.pauses_ns = 0
        self.decode_parts_ns = np.zeros(len(PARTS), np.int64)  # times requests
        self.tiered = replay.spec.host is not None
        self.tier_rates = tier_rates(replay)
        self.speculates = replay.schedule.speculate.tokens > 0
        self.drafts: dict[str, int] = {}  # sums over decode steps
        self.request_times = RequestTimes(replay.trace.num_requests)
        self.token_latency_ns = Spill(np.int64)  # of decode tokens
        self.knows_gate_mass = knows_gate_mass(replay)
        self.masses: dict[tuple[str, tuple[int, ...]], Spill] = {
            (name, phases): Spill(np.float64)
            for name in GATE_MASSES
            for phases in ((PREFILL, DECODE), (PREFILL,), (DECODE,))
        }

    def run(self, results: Iterable[BlockResult] | None = None) -> Self:
        """Take in all blocks: those of the replay, which runs now, where none are given."""
        for result in self.replay.blocks() if results is None else results:
            self.add(result)
        return self

    def add(self, result: BlockResult) -> None:
        """Take in one block of steps."""
        rows = step_rows(result)
        shares = mass_shares(result)
        for phase in (PREFILL, DECODE):
            chosen = result.block.phase == phase
            self.sums[phase] += rows[chosen].sum(axis=0)
            self.steps[phase] += np.count_nonzero(chosen)
        self.pauses_ns += int(result.block.pause_ns.sum())
        drafts = draft_columns(result.block, self.replay.durations, self.replay.timed) if self.speculates else {}
        decodes = result.block.phase == DECODE
        for name, column in drafts.items():
            self.drafts[name] = self.drafts.get(name, 0) + int(column[decodes].sum())
        self._add_decode_times(rows[decodes], result.block.num_requests()[decodes])
        if self.knows_gate_mass:
            for (name, phases), spill in self.masses.items():
                chosen = np.isin(result.block.phase, phases)
                spill.append(shares[name][chosen] * rows[chosen, NUM_TOKENS])
        self.request_times.add(result)
        self._pass_on(rows, drafts | shares if self.knows_gate_mass else drafts)
        self.length += len(rows)

    def _add_decode_times(self, rows: NDArray[np.int64], requests: NDArray[np.int64]) -> None:
        """Take in decode steps, of so many requests each."""
        if self.replay.timed:
            self.token_latency_ns.append(token_times(rows[:, LATENCY], requests, rows[:, NUM_TOKENS]))
            self.decode_parts_ns += requests @ rows[:, FIRST_PART : FIRST_PART + len(PARTS)]

    def _pass_on(self, rows: NDArray[np.int64], more: Columns) -> None:
        columns: Columns = {"step": np.arange(self.length, self.length + len(rows))}
        for i, name in enumerate(COLUMNS):
            if self.replay.timed or not name.endswith("_ns"):
                columns[name] = rows[:, i]
        columns |= more
        if self.sink is not None:
            self.sink.write(columns)
        else:
            self.kept.append(columns)

    def decode_step_ns(self) -> float | None:
        """Mean time of a decode step; None without any."""
        return ratio(float(self.sums[DECODE, LATENCY]), float(self.steps[DECODE]))

    def tokens_per_decode_step(self) -> float:
        """Mean number of tokens that a decode step brings; 0 without any."""
        return ratio(float(self.sums[DECODE, NUM_TOKENS]), float(self.steps[DECODE])) or 0.0

    def __len__(self) -> int:
        """Number of steps taken in."""
        return self.length

    def columns(self) -> Columns:
        """The per-step table where no sink took it; unknown times are left out."""
        if self.sink is not None:
            raise ValueError("the steps were passed on to a sink and are not kept")
        names = self.kept[0] if self.kept else ()
        return {name: np.concatenate([columns[name] for columns in self.kept]) for name in names}

    def array(self) -> NDArray[np.int64]:
        """[S, len(COLUMNS)] int64 where no sink took it, 0 for unknown times."""
        columns, nothing = self.columns(), np.zeros(self.length, np.int64)
        return np.stack([columns.get(name, nothing) for name in COLUMNS], axis=1)

    def requests(self) -> Columns:
        """One row per request: see ``RequestTimes.columns``; its number in the whole trace, its label as a number.

        Of a request that is a turn of a chat also both numbers, from 0, and its TTFT again unless it is the first.
        """
        trace, columns = self.replay.trace, self.request_times.columns(self.replay.timed)
        numbers, clusters = trace.request_numbers, trace.clusters()
        columns["trace_request"] = columns["request"] if numbers is None else numbers
        if trace.request_turns is not None:
            columns["chat"], columns["turn"] = trace.request_turns.T
        if trace.request_turns is not None and self.replay.timed:
            columns["later_ttft_s"] = np.where(columns["turn"] > 0, columns["ttft_s"], np.nan)
        return columns if clusters is None else columns | {"cluster": clusters}

    def metrics(self) -> Metrics:
        """The flat row of metrics."""
        result = identity(self.replay)
        for prefix, phases in PREFIXES.items():
            sums = self._sums(phases)
            result |= {f"{prefix}{rate.name}": rate.value(sums) for rate in (*RATES, *self.tier_rates)}
        return result | self._times() | self._totals() | self._speculation()

    def _speculation(self) -> Metrics:
        """Metrics of drafts, none where nothing is drafted."""
        if not self.speculates:
            return {}
        sums = self._sums(PREFIXES["decode."]) | self.drafts
        if not self.replay.timed:
            del sums["latency_ns"]
        return {metric.name: metric.value(sums) for metric in SPECULATION}

    def _sums(self, phases: tuple[int, ...]) -> dict[str, float]:
        """Sums over the steps of these phases, under the names of ``BlockSums``."""
        sums = dict(zip(COLUMNS, self.sums[list(phases)].sum(axis=0).tolist(), strict=True))
        layer_steps = int(self.steps[list(phases)].sum()) * self.replay.trace.num_layers
        if self.replay.cache.sequential:  # each access is one
            layer_steps = int(sums["routed_ranks"])
        sums |= {"layer_steps": layer_steps, "slot_steps": self.replay.pools.slots() * layer_steps}
        if self.knows_gate_mass:
            sums |= {f"{name}_tokens": total(self.masses[name, phases], np.asarray) for name in GATE_MASSES}
        return sums

    def _times(self) -> Metrics:
        requests, result = self.requests(), Metrics()
        for time in REQUEST_TIMES if self.replay.trace.request_turns is None else (*REQUEST_TIMES, *TURN_TIMES):
            values = requests.get(time.name, np.empty(0))
            result |= summary(time.name, values[~np.isnan(values)])
        result |= spilled_summary(TOKEN_TIME.name, self.token_latency_ns)
        sums = {"num_tokens": len(self.token_latency_ns)}
        sums |= {f"token_{part}_ns": spent for part, spent in zip(PARTS, self.decode_parts_ns.tolist(), strict=True)}
        times = (*PART_TIMES, *STORAGE_TIMES) if self.tiered else PART_TIMES
        return result | {time.name: time.value(sums) for time in times}

    def _totals(self) -> Metrics:
        timed, result = self.replay.timed, Metrics()
        clock_ns = float(self.sums[:, LATENCY].sum() + self.pauses_ns)
        result["link_utilisation"] = self.replay.engine.link_busy_ns / clock_ns if timed and clock_ns else None
        result["cpu_utilisation"] = self.replay.engine.cpu_busy_ns / clock_ns if timed and clock_ns else None
        if self.tiered:
            busy_ns = min(self.replay.engine.storage_busy_ns, clock_ns)  # reads that nobody waits for may end later
            last = STORAGE_UTILISATION if self.tier_rates is not PEER_RATES else HOST_LINK_UTILISATION
            result[last.name] = busy_ns / clock_ns if timed and clock_ns else None
        result["simulated_s"] = clock_ns / 1e9 if timed else None
        return result


def step_rows(result: BlockResult) -> NDArray[np.int64]:
    """[S, len(COLUMNS)] int64, 0 for unknown times."""
    block = result.block
    rows = np.zeros((len(block), len(COLUMNS)), np.int64)
    rows[:, 0], rows[:, 1], rows[:, 2] = block.group, block.requests[block.bounds[:-1]], block.phase
    rows[:, NUM_TOKENS] = block.num_tokens()
    if result.latency_ns is not None and result.parts_ns is not None:
        rows[:, LATENCY], rows[:, FIRST_PART:FIRST_COUNTER] = result.latency_ns, result.parts_ns
    rows[:, FIRST_COUNTER:] = result.counts
    return rows


def mass_shares(result: BlockResult) -> dict[str, NDArray[np.float64]]:
    """[S] by name of ``GATE_MASSES``: the share of the router's weight that was not executed as routed; of it what ran
    in low precision."""
    lost, whole, low = result.lost.T
    return {
        name: np.divide(share, whole, out=np.zeros(len(share)), where=whole != 0)
        for name, share in zip(GATE_MASSES, (lost, low), strict=True)
    }


def knows_gate_mass(replay: Replay) -> bool:
    """Whether the weight that was not executed as routed can be told."""
    return replay.trace.topk_weights is not None or replay.device.spec.has_scores


def tier_rates(replay: Replay) -> tuple[Metric, ...]:
    """What a replay knows of storage and host memory, which unified memory has no store in, or of a second GPU."""
    host = replay.spec.host
    if host is not None and host.reading.peer is not None:
        return PEER_RATES
    return () if host is None else tuple(rate for rate in TIER_RATES if host.capacity or "host_hits" not in rate.above)


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


def summary(name: str, values: NDArray[np.float64]) -> Metrics:
    """Mean and quantiles (linear interpolation) of ``values``; None where there are none."""
    metrics: Metrics = {f"{name}.mean": float(values.mean()) if values.size else None}
    for key, share in QUANTILES.items():
        metrics[f"{name}.{key}"] = float(np.quantile(values, share)) if values.size else None
    return metrics


def spilled_summary(name: str, values_ns: Spill) -> Metrics:
    """``summary`` of nanoseconds on disk, in seconds."""
    keys = ("mean", *QUANTILES)
    if not len(values_ns):
        return {f"{name}.{key}": None for key in keys}
    numbers = (total(values_ns, seconds) / len(values_ns), *quantiles(values_ns, [*QUANTILES.values()], seconds))
    return {f"{name}.{key}": number for key, number in zip(keys, numbers, strict=True)}


def seconds(nanoseconds: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(nanoseconds / 1e9, np.float64)
