"""Findings of real runs and their simulation: tables in the order of trust, a summary, notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.validation.calibrated import Calibrated
from sim.validation.compare import Compared, decision_row, gain_rows, layer_rows, ranking_rows, token_rows
from sim.validation.findings import (
    STATISTICS,
    Findings,
    Point,
    Row,
    error_summary,
    errors_of,
    fitted_rows,
    interval_of,
    number,
)
from sim.validation.measure import passes
from sim.validation.plan import Plan
from sim.validation.raw_runs import RawRun

NEEDED_SETTINGS = 12
LARGE_GAIN_PERCENT = 20.0


def findings_of(
    plan: Plan, runs: Sequence[RawRun], compared: Sequence[Compared], calibrated: Calibrated, gate: float
) -> Findings:
    """Tables in the order of trust: decisions, bytes, layers, tokens, ranking."""
    timed = [comparison for comparison in compared if comparison.kept]
    tables = {
        "decisions": [decision_row(comparison) for comparison in compared],
        "layers": [row for comparison in timed for row in layer_rows(comparison)],
        "tokens": [row for comparison in timed for row in token_rows(comparison)],
        "ranking": ranking_rows(timed),
        "prefetch_gain": gain_rows(compared, plan.pairs),
        "constants": constant_rows(calibrated),
        "runs": [run_row(run, gate) for run in runs],
    }
    enough = sum(len(comparison.kept) >= plan.repeats for comparison in compared)
    points = [point_of(row) for row in tables["tokens"] if row["statistic"] == "mean"]
    notes = notes_of(plan, runs, calibrated, gate, enough)
    title = f"Real runs on this machine ({plan.real.device}) beside their simulation"
    return Findings("live", title, "ms per token", summary_of(tables, enough), tables, notes, points)


def summary_of(tables: dict[str, list[Row]], enough: int) -> dict[str, Any]:
    """Summary of the tables; ``enough``: how many settings have all their repeats undisturbed."""
    by_statistic = {name: [row for row in tables["tokens"] if row["statistic"] == name] for name in STATISTICS}
    gains = [number(row, "predicted_gain_percent") for row in tables["prefetch_gain"]]
    return {
        "noise gate": {
            "settings_with_all_repeats": enough,
            "settings_needed": NEEDED_SETTINGS,
            "enough": enough >= NEEDED_SETTINGS,
            "runs": len(tables["runs"]),
            "runs_passed": sum(bool(row["passed"]) for row in tables["runs"]),
        },
        "decisions": decision_summary(tables["decisions"]),
        "time per layer": error_summary(errors_of(tables["layers"])),
        **{f"time per token, {name}": error_summary(errors_of(rows)) for name, rows in by_statistic.items()},
        "interval of 90 %": interval_summary(by_statistic["mean"]),
        "ranking": {
            "resolved_pairs": len(tables["ranking"]),
            "right": sum(bool(row["right"]) for row in tables["ranking"]),
        },
        "prefetch": {
            "largest_predicted_gain_percent": max(gains, default=None),
            "a_large_gain_is_among_them": max(gains, default=0.0) >= LARGE_GAIN_PERCENT,
        },
    }


def point_of(mean: Row) -> Point:
    """A setting's mean time per token."""
    setting, (low, high) = str(mean["setting"]), interval_of(mean) or (None, None)
    series = setting.rsplit("_", 1)[0]
    return Point(series, number(mean, "measured_ms"), number(mean, "predicted_ms"), low, high, name=setting)


def decision_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Settings that fetch on demand only must be exact; where prefetch is timed, how alike."""
    demand = [row for row in rows if not row["prefetch"] and row["runs"]]
    timed = [row for row in rows if row["prefetch"] and row["runs"]]
    return {
        "demand_only_settings": len(demand),
        "demand_only_identical": sum(row["steps_all_counts_equal"] == 1.0 for row in demand),
        "prefetch_settings": len(timed),
        "prefetch_least_outcomes_equal": min((number(row, "outcomes_equal") for row in timed), default=None),
        "prefetch_worst_bytes_error_percent": max(
            (number(row, "bytes_error_percent") for row in timed), key=abs, default=None
        ),
    }


def interval_summary(means: Sequence[Row]) -> dict[str, Any]:
    """How many measured means lie in the interval of their prediction."""
    intervals = [(number(row, "measured_ms"), ends) for row in means if (ends := interval_of(row)) is not None]
    inside = sum(low <= measured <= high for measured, (low, high) in intervals)
    return {"settings": len(intervals), "inside": inside, "share": inside / len(intervals) if intervals else None}


def constant_rows(calibrated: Calibrated) -> list[Row]:
    """The constants of the prediction."""
    if calibrated.constants is None:
        return []
    constants = calibrated.constants
    names = ("attention", "readback", "expert", "host", "call", "wake")
    costs = {f"{name}_ms": 1e3 * float(getattr(constants, f"{name}_s")) for name in names}
    return fitted_rows(costs | {"link_gb_per_s": constants.link_bytes_per_s / 1e9})


def run_row(run: RawRun, gate: float) -> Row:
    """One real run: what disturbed it, and whether it counts."""
    return {
        "setting": run.setting,
        "run": run.index,
        "ended_at_utc": run.ended_at,
        "foreign_and_stolen_share": run.disturbance,
        "waited_for_a_core_share": run.waited_share,
        "passed": passes(run, gate),
        "mean_ms": run.mean("latency_ns") / 1e6,
        "label": run.label,
    }


def notes_of(plan: Plan, runs: Sequence[RawRun], calibrated: Calibrated, gate: float, enough: int) -> list[str]:
    """Notes for the reader; the first says whether enough runs were undisturbed."""
    dropped = sum(not passes(run, gate) for run in runs)
    verdict = f"{enough} settings have {plan.repeats} undisturbed repeats ({NEEDED_SETTINGS} are needed): " + (
        "enough" if enough >= NEEDED_SETTINGS else "TOO FEW, the machine was too busy for its times to mean much"
    )
    labels = ", ".join(sorted({run.label for run in runs})) or "-"
    if calibrated.constants is None:
        source = (
            f"SIMULATED on {calibrated.machine.name} ({calibrated.machine.hardware.label}), calibrated apart from "
            "these runs"
        )
        interval = "figures of hardware and runtime file drawn within its standard errors, where it states them"
    else:
        source = (
            "SIMULATED with constants FITTED on the two calibrating settings, whose requests and capacities are in no "
            "other setting"
        )
        interval = "the means of the calibrating runs vary by the spread between them"
    notes = [
        verdict,
        f"measured_*: {labels}, where EMULATED says that the link is paced in software; predicted_*: {source}; no "
        "constant was fitted on a setting that is compared",
        f"{dropped} of {len(runs)} runs were dropped: foreign load and stolen time, or waiting for a core, above "
        f"{gate:g}; decisions and bytes are compared over all runs, times over the others",
        "decisions: shares are the worst of all runs; counts are compared step by step",
        f"low, high: 90 % interval of the mean of the repeats, parametric bootstrap: {interval}, and the mean of the "
        "repeats by the spread between calibrating runs; errors of the model's form are not in it",
        f"each run: {plan.tokens} decode tokens or what the request has; the request before and the prompt are "
        "decided, not executed",
    ]
    if calibrated.disturbed:
        notes.insert(1, "no calibrating run passed the gate: the constants come from disturbed runs")
    return notes
