"""Real runs of a setting beside its simulation: decisions, bytes, times per layer and token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from policies.base import Prefetch
from sim.engine.decision.counters import COUNTERS
from sim.engine.decision.device import decides
from sim.validation.findings import STATISTICS, Row, correlation, signed_error_percent, statistic_of
from sim.validation.plan import Setting, policy_of
from sim.validation.raw_runs import RawRun
from sim.validation.simulate import Simulated

OUTCOMES = COUNTERS[: COUNTERS.index("demanded")]
RESOLVED_ERRORS = 2.0
"""A gap between two settings is resolved where it exceeds so many standard errors."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A setting: its simulation, all its real runs, those that passed the gate, and the interval of the mean in ms."""

    setting: Setting
    simulated: Simulated
    runs: Sequence[RawRun]
    kept: Sequence[RawRun]
    interval_ms: tuple[float, float] | None = None

    @property
    def prefetches(self) -> bool:
        return decides(policy_of(self.setting.overrides).prefetch, Prefetch, "choose")

    @property
    def means_ms(self) -> NDArray[np.float64]:
        """[kept runs] mean time per token."""
        return np.array([run.mean("latency_ns") / 1e6 for run in self.kept])

    @property
    def measured_ms(self) -> float:
        return float(self.means_ms.mean())

    @property
    def predicted_ms(self) -> float:
        return float(self.simulated.latency_ns.mean()) / 1e6

    @property
    def standard_error_ms(self) -> float | None:
        """Of the measured mean, from the spread of the repeats; None for fewer than two."""
        means = self.means_ms
        return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def decision_row(comparison: Compared) -> Row:
    """How alike decisions and bytes are over all runs, disturbed ones too: they do not measure time."""
    equal, outcomes, bytes_percent = [], [], []
    for run in comparison.runs:
        counted = [name for name in COUNTERS if name in run.columns]
        counts = np.stack([run.columns[name] for name in counted], axis=1)
        expected = comparison.simulated.counts[:, [COUNTERS.index(name) for name in counted]]
        equal.append(float((counts == expected).all(axis=1).mean()))
        first = slice(0, len(OUTCOMES))
        moved = np.abs(counts[:, first] - expected[:, first]).sum() / 2
        outcomes.append(1.0 - float(moved) / max(1, int(comparison.simulated.count("demanded").sum())))
        expected_bytes = int(comparison.simulated.count("copied_bytes").sum())
        if expected_bytes:
            bytes_percent.append(signed_error_percent(expected_bytes, float(run.columns["copied_bytes"].sum())))
    return {
        "setting": comparison.setting.name,
        "prefetch": comparison.prefetches,
        "runs": len(comparison.runs),
        "steps_all_counts_equal": min(equal, default=None),
        "outcomes_equal": min(outcomes, default=None),
        "bytes_error_percent": max(bytes_percent, key=abs, default=0.0 if comparison.runs else None),
    }


def token_rows(comparison: Compared) -> list[Row]:
    """Mean and quantiles of the time per token; the spread between repeats beside the error."""
    rows: list[Row] = []
    measured_all = np.concatenate([run.columns["latency_ns"] for run in comparison.kept]) / 1e6
    for statistic in STATISTICS:
        by_run = [statistic_of(statistic, run.columns["latency_ns"] / 1e6) for run in comparison.kept]
        measured = comparison.measured_ms if statistic == "mean" else statistic_of(statistic, measured_all)
        predicted = statistic_of(statistic, comparison.simulated.latency_ns / 1e6)
        mean = statistic == "mean" and comparison.interval_ms is not None
        rows.append(
            {
                "setting": comparison.setting.name,
                "statistic": statistic,
                "repeats": len(comparison.kept),
                "measured_ms": measured,
                "repeats_spread_percent": float(100 * np.std(by_run, ddof=1) / np.mean(by_run))
                if len(by_run) > 1
                else None,
                "predicted_ms": predicted,
                "low": comparison.interval_ms[0] if mean and comparison.interval_ms else None,
                "high": comparison.interval_ms[1] if mean and comparison.interval_ms else None,
                "error_percent": signed_error_percent(predicted, measured),
                "correlation_per_token": token_correlation(comparison) if statistic == "mean" else None,
            }
        )
    return rows


def token_correlation(comparison: Compared) -> float | None:
    """Between the predicted time of each token and its mean over the repeats."""
    measured = np.mean([run.columns["latency_ns"] for run in comparison.kept], axis=0)
    return correlation(measured, comparison.simulated.latency_ns)


def layer_rows(comparison: Compared) -> list[Row]:
    """Mean time of each layer."""
    if comparison.simulated.layer_ns is None:
        return []
    measured = np.mean([run.layer_ns for run in comparison.kept], axis=0) / 1e6
    predicted = comparison.simulated.layer_ns.mean(axis=0) / 1e6
    return [
        {
            "setting": comparison.setting.name,
            "layer": layer,
            "measured_ms": float(measured[layer]),
            "predicted_ms": float(predicted[layer]),
            "error_percent": signed_error_percent(float(predicted[layer]), float(measured[layer])),
        }
        for layer in range(len(measured))
    ]


def ranking_rows(compared: Sequence[Compared]) -> list[Row]:
    """Every two settings of one trace whose measured gap exceeds its noise, and whether the prediction agrees."""
    rows: list[Row] = []
    for first, second in combinations(compared, 2):
        errors = (first.standard_error_ms, second.standard_error_ms)
        if first.setting.trace != second.setting.trace or errors[0] is None or errors[1] is None:
            continue
        gap = second.measured_ms - first.measured_ms
        noise = float(np.hypot(errors[0], errors[1]))
        if abs(gap) <= RESOLVED_ERRORS * noise:
            continue
        predicted = second.predicted_ms - first.predicted_ms
        rows.append(
            {
                "one": first.setting.name,
                "other": second.setting.name,
                "measured_gap_ms": gap,
                "standard_error_ms": noise,
                "predicted_gap_ms": predicted,
                "right": bool(gap * predicted > 0),
            }
        )
    return rows


def gain_rows(compared: Sequence[Compared], pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """What prefetching gains, measured and predicted, in percent of the time without."""
    known = {comparison.setting.name: comparison for comparison in compared}
    return [
        {
            "without": without,
            "with": with_,
            "predicted_gain_percent": _gain(known[without].predicted_ms, known[with_].predicted_ms),
            "measured_gain_percent": _gain(known[without].measured_ms, known[with_].measured_ms)
            if len(known[without].kept) and len(known[with_].kept)
            else None,
        }
        for without, with_ in pairs
        if without in known and with_ in known
    ]


def _gain(before: float, after: float) -> float:
    return 100.0 * (1.0 - after / before)
