"""Measures a plan: rounds of all settings in changing order, every run stored as it ends, disturbed ones run again."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.execution.run import run_forced
from sim.results.json_files import write_json
from sim.validation.in_situ import placeholder
from sim.validation.plan import Plan, Setting, real_settings, replay_of
from sim.validation.raw_runs import RAW, RUNS, TOKENS, RawRun, raw_run, store, stored

PLAN = "plan.json"
MAX_ROUNDS = 4
"""Times as many rounds as repeats are tried while runs are disturbed and time is left."""


def passes(run: RawRun, gate: float) -> bool:
    """Whether foreign load and stolen time, and waiting for a core, are both at most the gate."""
    return all(share is None or share <= gate for share in (run.disturbance, run.waited_share))


def begin(folder: Path, plan: Plan) -> list[RawRun]:
    """Runs of an unfinished measurement of the same plan, which continues; all other results are deleted."""
    mark = plan.fingerprint()
    path = folder / PLAN
    if path.is_file() and not (folder / RUNS).is_file() and f'"{mark}"' in path.read_text(encoding="utf-8"):
        return stored(folder)
    shutil.rmtree(folder / RAW, ignore_errors=True)
    for name in (RUNS, TOKENS):
        (folder / name).unlink(missing_ok=True)
    write_json(path, {"fingerprint": mark, "plan": plan.as_json()})
    return []


def measure(folder: Path, plan: Plan, gate: float, budget_s: float, seed: int = 0) -> list[RawRun]:
    """Measure until every setting has its repeats undisturbed, or until the time is up -> all runs, disturbed ones too.

    The first rounds run every setting, later ones only what still lacks repeats. Both calibrating settings are in every
    round, so that they see the same machine.
    """
    from tqdm import tqdm

    runs = begin(folder, plan)
    if runs:
        print(f"going on after {len(runs)} finished runs in {folder}", file=sys.stderr)
    end_s = time.monotonic() + budget_s
    settings = (*plan.settings, *plan.calibration)
    rng = np.random.default_rng(seed)
    total = plan.repeats * len(settings)
    with tqdm(total=total, unit=" runs", disable=None, leave=False) as bar:
        bar.update(min(len(runs), total))
        for number in range(plan.repeats * MAX_ROUNDS):
            for setting in round_of(plan, settings, runs, gate, number, rng):
                if time.monotonic() > end_s:
                    return runs
                index = sum(run.setting == setting.name for run in runs)
                runs.append(run_once(plan, setting, index))
                store(folder, runs[-1])
                bar.set_postfix_str(f"{setting.name}, {sum(passes(run, gate) for run in runs)} of {len(runs)} passed")
                bar.update()
    return runs


def round_of(
    plan: Plan,
    settings: Sequence[Setting],
    runs: Sequence[RawRun],
    gate: float,
    number: int,
    rng: np.random.Generator,
) -> list[Setting]:
    """Settings of a round in drawn order: those that have not been run so often yet, or lack undisturbed repeats."""
    done = Counter(run.setting for run in runs)
    good = Counter(run.setting for run in runs if passes(run, gate))
    lacking = [
        setting
        for setting in settings
        if done[setting.name] <= number and (number < plan.repeats or good[setting.name] < plan.repeats)
    ]
    if number >= plan.repeats and lacking:  # calibration stays beside whatever is run
        lacking += [setting for setting in plan.calibration if setting not in lacking and done[setting.name] <= number]
    return [lacking[i] for i in rng.permutation(len(lacking)).tolist()]


def run_once(plan: Plan, setting: Setting, index: int) -> RawRun:
    """Run a setting once for real."""
    return raw_run(
        setting.name, index, run_forced(replay_of(plan, setting, placeholder(plan)), real_settings(plan, setting))
    )
