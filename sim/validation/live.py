"""Validation on this machine: measure the plan, calibrate on its own part, predict the rest, set them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.machine.machine import Machine
from sim.results.json_files import read_json
from sim.statistics.bootstrap import percentile_interval
from sim.validation.calibrated import Calibrated, calibrate, calibrated_elsewhere
from sim.validation.compare import Compared
from sim.validation.findings import Findings
from sim.validation.measure import PLAN, passes
from sim.validation.plan import Plan, plan_from_json
from sim.validation.raw_runs import RawRun, gathered
from sim.validation.simulate import simulate
from sim.validation.verdict import findings_of
from traces.errors import UserError

COVERAGE = 0.9


def analyse(folder: Path, gate: float, draws: int, machine: Machine | None = None) -> Findings:
    """What the runs in a folder say. The same files give the same findings wherever they were measured.

    ``machine``: a machine calibrated elsewhere, in place of the calibrating runs.
    """
    path = folder / PLAN
    if not path.is_file():
        raise UserError(f"{folder} holds no {PLAN}: it is no validation")
    plan = plan_from_json(read_json(path).get("plan"), path)
    return compare_runs(plan, gathered(folder), gate, draws, machine)


def compare_runs(
    plan: Plan, runs: Sequence[RawRun], gate: float, draws: int, machine: Machine | None = None
) -> Findings:
    """Set real runs beside their simulation."""
    elsewhere = None if machine is None else calibrated_elsewhere(machine, runs, draws)
    calibrated = elsewhere or calibrate(plan, runs, gate, draws)
    compared = []
    for setting in plan.settings:
        repeats = [run for run in runs if run.setting == setting.name]
        kept = [run for run in repeats if passes(run, gate)]
        simulated = simulate(plan, setting, calibrated.machine, layers=True)
        interval = _interval(plan, setting.name, calibrated, max(1, len(kept)))
        compared.append(Compared(setting, simulated, repeats, kept, interval))
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
    return percentile_interval(means, COVERAGE)
