"""Validation on this machine: measure the plan, calibrate on its own part, predict the rest, set them side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.hardware import Hardware
from sim.validation.compare import Compared, decision_row, gain_rows, layer_rows, ranking_rows, token_rows
from sim.validation.findings import Findings, Point, Row, error_summary
from sim.validation.in_situ import Constants, Spread, fit, machine, repeat_spread, slower
from sim.validation.measure import PLAN, passes
from sim.validation.plan import MOSTLY_HITS, MOSTLY_MISSES, Plan, plan_from_json
from sim.validation.raw_runs import RawRun, gathered
from sim.validation.simulate import simulate
from traces.errors import UserError

NEEDED_SETTINGS = 12
QUANTILES = (0.05, 0.95)
LARGE_GAIN_PERCENT = 20.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The machine of the prediction, machines of the bootstrap, and the spread between repeats of a calibrating run."""

    hardware: Hardware
    constants: Constants | None
    draws: tuple[Hardware, ...]
    spread: Spread | None
    disturbed: bool
    """Calibrating runs did not pass the gate either: all of them were taken."""


def analyse(folder: Path, gate: float, draws: int, hardware: Hardware | None = None) -> Findings:
    """What the runs in a folder say. The same files give the same findings wherever they were measured.

    ``hardware``: a machine calibrated elsewhere, in place of the calibrating runs.
    """
    path = folder / PLAN
    if not path.is_file():
        raise UserError(f"{folder} holds no {PLAN}: it is no validation")
    plan = plan_from_json(json.loads(path.read_text(encoding="utf-8"))["plan"])
    return compare_runs(plan, gathered(folder), gate, draws, hardware)


def calibrate(plan: Plan, runs: Sequence[RawRun], gate: float, draws: int) -> Calibrated:
    """Fit the calibrating runs that passed the gate, all of them where none of a setting did."""
    kinds = [[run for run in runs if run.setting == name] for name in (MOSTLY_HITS, MOSTLY_MISSES)]
    good = [[run for run in kind if passes(run, gate)] for kind in kinds]
    disturbed = not all(good)
    hits, misses = kinds if disturbed else good
    constants = fit(plan, hits, misses)
    rng, spread, drawn = np.random.default_rng(0), repeat_spread(hits, misses), []
    for _ in range(draws if spread else 0):
        assert spread is not None
        again = [slower(kind, spread.of_mean(len(kind), rng)) for kind in (hits, misses)]
        drawn.append(fit(plan, again[0], again[1], constants, rounds=2))
    return Calibrated(
        machine(plan, constants),
        constants,
        tuple(machine(plan, one) for one in drawn),
        spread,
        disturbed,
    )


def calibrated_elsewhere(hardware: Hardware, draws: int) -> Calibrated:
    """A given machine; draws of its figures within the relative standard errors that its file states, if any."""
    rng = np.random.default_rng(0)
    if not hardware.uncertainty:
        return Calibrated(hardware, None, (), None, False)
    drawn = []
    for _ in range(draws):
        factors = {name: max(0.05, 1 + error * rng.standard_normal()) for name, error in hardware.uncertainty.items()}
        figures: dict[str, Any] = {
            name: getattr(hardware, name) * factor
            for name, factor in factors.items()
            if isinstance(getattr(hardware, name), float)
        }
        drawn.append(replace(hardware, **figures))
    return Calibrated(hardware, None, tuple(drawn), None, False)


def compare_runs(
    plan: Plan, runs: Sequence[RawRun], gate: float, draws: int, hardware: Hardware | None = None
) -> Findings:
    """Set real runs beside their simulation."""
    elsewhere = None if hardware is None else calibrated_elsewhere(hardware, draws)
    calibrated = elsewhere or calibrate(plan, runs, gate, draws)
    compared = []
    for setting in plan.settings:
        mine = [run for run in runs if run.setting == setting.name]
        kept = [run for run in mine if passes(run, gate)]
        simulated = simulate(plan, setting, calibrated.hardware, layers=True)
        interval = _interval(plan, setting.name, calibrated, max(1, len(kept)))
        compared.append(Compared(setting, simulated, mine, kept, interval))
    return findings_of(plan, runs, compared, calibrated, gate)


def _interval(plan: Plan, name: str, calibrated: Calibrated, repeats: int) -> tuple[float, float] | None:
    """90 % interval of a setting's measured mean in ms: calibration drawn again, times the noise of so many repeats."""
    if not calibrated.draws:
        return None
    rng = np.random.default_rng(1)
    spread, setting = calibrated.spread, plan.setting(name)
    means = [
        float(simulate(plan, setting, drawn).latency_ns.mean()) / 1e6 * (spread.of_mean(repeats, rng) if spread else 1)
        for drawn in calibrated.draws
    ]
    low, high = np.quantile(means, QUANTILES)
    return float(low), float(high)


def findings_of(
    plan: Plan, runs: Sequence[RawRun], compared: Sequence[Compared], calibrated: Calibrated, gate: float
) -> Findings:
    """Tables in the order of trust: decisions, bytes, layers, tokens, ranking."""
    timed = [one for one in compared if one.kept]
    decisions = [decision_row(one) for one in compared]
    tokens = [row for one in timed for row in token_rows(one)]
    layers = [row for one in timed for row in layer_rows(one)]
    ranking = ranking_rows(timed)
    gains = gain_rows(compared, plan.pairs)
    enough = sum(len(one.kept) >= plan.repeats for one in compared)
    summary: dict[str, Any] = {
        "noise gate": {
            "settings_with_all_repeats": enough,
            "settings_needed": NEEDED_SETTINGS,
            "enough": enough >= NEEDED_SETTINGS,
            "runs": len(runs),
            "runs_passed": sum(passes(run, gate) for run in runs),
        },
        "decisions": decision_summary(decisions),
        "time per layer": error_summary(_errors(layers)),
    }
    for statistic in ("mean", "p50", "p90", "p99"):
        summary[f"time per token, {statistic}"] = error_summary(
            _errors([row for row in tokens if row["statistic"] == statistic])
        )
    means = [row for row in tokens if row["statistic"] == "mean"]
    summary["interval of 90 %"] = interval_summary(means)
    summary["ranking"] = {"resolved_pairs": len(ranking), "right": sum(bool(row["right"]) for row in ranking)}
    summary["prefetch"] = {
        "largest_predicted_gain_percent": max(
            (float(row["predicted_gain_percent"]) for row in gains if row["predicted_gain_percent"] is not None),
            default=None,
        )
    }
    tables = {
        "decisions": decisions,
        "layers": layers,
        "tokens": tokens,
        "ranking": ranking,
        "prefetch_gain": gains,
        "constants": constant_rows(calibrated),
        "runs": [run_row(run, gate) for run in runs],
    }
    points = [
        Point(
            str(row["setting"]).rsplit("_", 1)[0],
            float(row["measured_ms"]),  # type: ignore[arg-type]
            float(row["predicted_ms"]),  # type: ignore[arg-type]
            None if row["low"] is None else float(row["low"]),
            None if row["high"] is None else float(row["high"]),
            name=str(row["setting"]),
        )
        for row in means
    ]
    notes = notes_of(plan, runs, calibrated, gate, enough)
    title = f"Real runs on this machine ({plan.real.device}) beside their simulation"
    return Findings("live", title, "ms per token", summary, tables, notes, points)


def decision_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Settings that fetch on demand only must be exact; where prefetch is timed, how alike."""
    demand = [row for row in rows if not row["prefetch"] and row["runs"]]
    timed = [row for row in rows if row["prefetch"] and row["runs"]]
    return {
        "demand_only_settings": len(demand),
        "demand_only_identical": sum(row["steps_all_counts_equal"] == 1.0 for row in demand),
        "prefetch_settings": len(timed),
        "prefetch_least_outcomes_equal": min((float(row["outcomes_equal"]) for row in timed), default=None),  # type: ignore[arg-type]
        "prefetch_worst_bytes_error_percent": max(
            (float(row["bytes_error_percent"]) for row in timed),  # type: ignore[arg-type]
            key=abs,
            default=None,
        ),
    }


def interval_summary(means: Sequence[Row]) -> dict[str, Any]:
    """How many measured means lie in the interval of their prediction."""
    known = [row for row in means if row["low"] is not None and row["high"] is not None]
    inside = sum(
        float(row["low"]) <= float(row["measured_ms"]) <= float(row["high"])  # type: ignore[arg-type]
        for row in known
    )
    return {"settings": len(known), "inside": inside, "share": inside / len(known) if known else None}


def constant_rows(calibrated: Calibrated) -> list[Row]:
    """The constants of the prediction."""
    if calibrated.constants is None:
        return []
    found = calibrated.constants
    rows: list[Row] = [
        {"constant": f"{name}_ms", "value": 1e3 * float(getattr(found, f"{name}_s")), "label": "FITTED"}
        for name in ("attention", "readback", "expert", "host", "call")
    ]
    return [*rows, {"constant": "link_gb_per_s", "value": found.link_bytes_per_s / 1e9, "label": "FITTED"}]


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
    """What a reader must know, the verdict on the machine first."""
    dropped = sum(not passes(run, gate) for run in runs)
    verdict = f"{enough} settings have {plan.repeats} undisturbed repeats ({NEEDED_SETTINGS} are needed): " + (
        "enough" if enough >= NEEDED_SETTINGS else "TOO FEW, the machine was too busy for its times to mean much"
    )
    labels = ", ".join(sorted({run.label for run in runs})) or "-"
    notes = [
        verdict,
        f"measured_*: {labels}, where EMULATED says that the link is paced in software; predicted_*: SIMULATED with "
        "constants FITTED on the two calibrating settings, whose requests and capacities are in no other setting; no "
        "constant was fitted on a setting that is compared",
        f"{dropped} of {len(runs)} runs were dropped: foreign load and stolen time, or waiting for a core, above "
        f"{gate:g}; decisions and bytes are compared over all runs, times over the others",
        "decisions: shares are the worst of all runs; counts are compared step by step",
        "low, high: 90 % interval of the mean of the repeats, parametric bootstrap: the means of the calibrating runs "
        "and of the repeats vary by the spread between calibrating runs; errors of the model's form are not in it",
        f"each run: {plan.tokens} decode tokens or what the request has; the request before and the prompt are "
        "decided, not executed",
    ]
    if calibrated.disturbed:
        notes.insert(1, "no calibrating run passed the gate: the constants come from disturbed runs")
    if calibrated.constants is None:
        notes.insert(1, f"predictions use hardware {calibrated.hardware.name}, not runs of this validation")
    return notes


def _errors(rows: Sequence[Row]) -> list[float]:
    return [float(row["error_percent"]) for row in rows]  # type: ignore[arg-type]
