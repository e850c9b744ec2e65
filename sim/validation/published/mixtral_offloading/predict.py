"""Mixtral-8x7B with offloading on several GPUs: two published runs of each calibrate it, the others are predicted.

The program (a fork of mixtral-offloading, HQQ 4/2 bit) copies on the stream that computes, so a token takes
base + misses * cost: two constants per GPU, and two runs to fit them. Which two is fixed here, before any table is
read: LRU with 4 experts of a layer offloaded, random with 6. Misses come from replaying the one published trace.
Source: https://github.com/h39s/mlsys (MIT); measured.csv is gathered from its logs.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policies.base import Eviction
from policies.eviction.lfu_lifetime import LfuLifetime
from policies.eviction.lru import Lru
from policies.eviction.random import Random
from sim.machine.capacity import CacheConfig
from sim.statistics.prediction_interval import reach
from sim.validation.config import PublishedConfig, require_files
from sim.validation.findings import (
    CALIBRATION,
    PREDICTED,
    Findings,
    Point,
    Row,
    error_summary,
    errors_of,
    interval_of,
    number,
    signed_error_percent,
)
from sim.validation.published.demand_replay import NO_COMPUTE, DemandSteps, replay_demand, two_constant_machine
from sim.validation.published.mixtral_offloading.table import NUM_EXPERTS, PublishedRun, read_runs
from sim.validation.published.mixtral_offloading.two_constants import (
    CALIBRATE_ON,
    Case,
    Constants,
    Workload,
    fit,
    workloads,
)
from traces.format.trace import Trace
from traces.importers import load_importer

RULES: dict[str, Eviction] = {"lru": Lru(), "lfu": LfuLifetime(), "random": Random()}
FILES = ("active_experts.txt", "measured.csv")
ORIGIN = "https://github.com/h39s/mlsys (active_experts.txt; measured.csv gathered from its logs)"
NOMINAL_BYTES = 2**20
"""Stands for an expert: only the time to copy one is fitted."""
RESOLVED = 0.01
"""Runs whose measured rates differ by less than this share are not ranked."""


class Replays:
    """Replays of the one trace by case, each made once; random eviction over several seeds."""

    def __init__(self, trace: Trace, seeds: int) -> None:
        geometry = replace(trace.geometry, expert_bytes=(NOMINAL_BYTES,) * trace.num_layers)
        self.trace, self.seeds = replace(trace, geometry=geometry), seeds
        self.known: dict[Case, list[DemandSteps]] = {}

    def of(self, case: Case) -> list[DemandSteps]:
        """One replay per seed; their clock means nothing."""
        if case not in self.known:
            self.known[case] = self.timed(case, Constants(1.0, 1.0))
        return self.known[case]

    def timed(self, case: Case, constants: Constants) -> list[DemandSteps]:
        """One replay per seed on a machine of these constants."""
        rule, offloaded = case
        machine = two_constant_machine(
            "fitted", constants.base_s, constants.copy_s, self.trace.geometry, "two published runs of this GPU"
        )
        cache = CacheConfig(slots_per_layer=NUM_EXPERTS - offloaded, start="warm")
        seeds = range(self.seeds if isinstance(RULES[rule], Random) else 1)
        return [replay_demand(self.trace, RULES[rule], cache, machine, NO_COMPUTE, seed) for seed in seeds]

    def decode_copies(self, case: Case) -> NDArray[np.float64]:
        """[D] copies of each decode step, mean over seeds."""
        copies = np.stack([steps.copies[steps.decode] for steps in self.of(case)])
        mean: NDArray[np.float64] = copies.mean(axis=0)
        return mean

    def prefill_copies(self, case: Case) -> float:
        """Copies of a prefill, mean over seeds."""
        return float(np.mean([steps.copies[~steps.decode] for steps in self.of(case)]))

    def hit_rate(self, work: Workload) -> float:
        """Hits over demands, with as many prefills and decode steps as the run had."""
        rates = []
        for steps in self.of(work.case):
            hits, demanded = (
                work.prefills * column[~steps.decode].mean() + work.decodes * column[steps.decode].mean()
                for column in (steps.hits, steps.demanded)
            )
            rates.append(hits / demanded)
        return float(np.mean(rates))


def predict_published(config: PublishedConfig) -> Findings:
    """Predict the published runs that did not calibrate.

    Raises: UserError when the files are missing or broken.
    """
    folder = require_files(config, FILES, ORIGIN)
    trace = load_importer("mixtral_offloading").read(folder / FILES[0], Namespace())
    return predict_runs(read_runs(folder / FILES[1]), Replays(trace, config.seeds))


def predict_runs(runs: Sequence[PublishedRun], replays: Replays) -> Findings:
    """Fit every GPU of the table on its two runs, predict its others."""
    notes = notes_for(replays)
    known = [run for run in runs if run.strategy in RULES and run.offloaded < NUM_EXPERTS]
    unknown = sorted({run.strategy for run in runs} - set(RULES))
    notes += [f"strategy {name} of the table has no rule here: its runs are left out" for name in unknown]
    if any(run.offloaded == NUM_EXPERTS for run in runs):
        notes.append("runs with all experts of a layer offloaded are left out: they have no cache")
    work = dict(zip(map(id, known), workloads(known), strict=True))
    rows: list[Row] = []
    constants: list[Row] = []
    summary: dict[str, object] = {}
    for gpu in dict.fromkeys(run.gpu for run in known):
        gpu_runs = [run for run in known if run.gpu == gpu]
        lacking = [f"{rule} at {off}" for rule, off in CALIBRATE_ON if not _calibrating(gpu_runs, (rule, off))]
        if lacking:
            notes.append(f"GPU {gpu} is skipped: its calibration run {' and '.join(lacking)} offloaded is missing")
            continue
        gpu_rows, fitted = predict_gpu(gpu_runs, [work[id(run)] for run in gpu_runs], replays)
        if fitted is None:
            notes.append(f"GPU {gpu} is skipped: its two calibration runs give a cost per miss or a base below zero")
            continue
        rows += gpu_rows
        constants.append({"gpu": gpu, "base_ms_per_step": 1e3 * fitted.base_s, "ms_per_miss": 1e3 * fitted.copy_s})
    set_intervals(rows)
    for gpu in dict.fromkeys(str(row["gpu"]) for row in rows):
        summary[f"GPU {gpu}"] = summary_of([row for row in rows if row["gpu"] == gpu])
    points = [_point(row) for row in rows]
    tables = {"runs": rows, "constants": constants}
    title = "Mixtral-8x7B with offloading: published tokens/s beside the replayed trace"
    return Findings("mixtral_offloading", title, "tokens/s", summary, tables, notes, points)


def predict_gpu(
    runs: Sequence[PublishedRun], works: Sequence[Workload], replays: Replays
) -> tuple[list[Row], Constants | None]:
    """Rows of one GPU's runs and its constants."""
    calibrating = [work for work in works if work.case in CALIBRATE_ON]
    copies = {case: (replays.prefill_copies(case), replays.decode_copies(case)) for case in {w.case for w in works}}
    totals = [work.copies(copies[work.case][0], float(copies[work.case][1].mean())) for work in calibrating]
    constants = fit(calibrating, totals)
    if constants is None:
        return [], None
    rows: list[Row] = []
    for run, work in zip(runs, works, strict=True):
        predicted = run.tokens / simulated_s(work, replays.timed(work.case, constants))
        rows.append(
            {
                "gpu": run.gpu,
                "offloaded_per_layer": run.offloaded,
                "policy": run.strategy,
                "use": CALIBRATION if work.case in CALIBRATE_ON else PREDICTED,
                "measured_tokens_per_s": run.tokens_per_s,
                "predicted_tokens_per_s": predicted,
                "low": None,
                "high": None,
                "error_percent": signed_error_percent(predicted, run.tokens_per_s),
                "measured_hit_rate": run.hit_rate,
                "replayed_hit_rate": replays.hit_rate(work),
            }
        )
    return rows, constants


def set_intervals(rows: Sequence[Row]) -> None:
    """The 90 % interval of every predicted run: by the errors of the other GPUs' predicted runs, else of its own.

    Those errors hold everything that keeps a prediction from a run: another prompt, the two runs that calibrate, noise.
    """
    held_out = [row for row in rows if row["use"] == PREDICTED]
    errors = [float(np.log1p(number(row, "error_percent") / 100)) for row in held_out]
    for row in held_out:
        elsewhere = [i for i, other in enumerate(held_out) if other["gpu"] != row["gpu"]]
        chosen = elsewhere or [i for i, other in enumerate(held_out) if other is not row]
        size = reach([errors[i] for i in chosen], chosen)
        if size is not None:
            row["low"] = number(row, "predicted_tokens_per_s") * float(np.exp(-size))
            row["high"] = number(row, "predicted_tokens_per_s") * float(np.exp(size))


def simulated_s(work: Workload, replays: Sequence[DemandSteps]) -> float:
    """Seconds of the run by the engine's clock: its prefills and decode steps at the replay's mean times."""
    seconds = [
        work.prefills * steps.latency_ns[~steps.decode].mean() + work.decodes * steps.latency_ns[steps.decode].mean()
        for steps in replays
    ]
    return float(np.mean(seconds)) / 1e9


def summary_of(rows: Sequence[Row]) -> dict[str, float | int | None]:
    """Errors of the predicted runs of a GPU, the intervals' coverage, and pairs of runs in the right order."""
    held_out = [row for row in rows if row["use"] == PREDICTED]
    measured = np.array([row["measured_tokens_per_s"] for row in held_out], np.float64)
    predicted = np.array([row["predicted_tokens_per_s"] for row in held_out], np.float64)
    pairs = right = 0
    for i in range(len(held_out)):
        for j in range(i):
            if abs(measured[i] - measured[j]) > RESOLVED * max(measured[i], measured[j]):
                pairs += 1
                right += bool((measured[i] > measured[j]) == (predicted[i] > predicted[j]))
    known = [(row, ends) for row in held_out if (ends := interval_of(row)) is not None]
    inside = [low <= number(row, "measured_tokens_per_s") <= high for row, (low, high) in known]
    return error_summary(errors_of(held_out)) | {
        "inside_the_interval": sum(inside),
        "pairs_over_1_percent_apart": pairs,
        "pairs_in_order": right,
    }


def notes_for(replays: Replays) -> list[str]:
    """What a reader must know of every figure."""
    on = " and ".join(f"{rule} with {offloaded} experts of a layer offloaded" for rule, offloaded in CALIBRATE_ON)
    return [
        "measured_*: MEASURED by others, one run each, no repeats; predicted_*: SIMULATED with two FITTED constants "
        "per GPU; replayed_hit_rate: SIMULATED",
        f"each GPU is calibrated on {on}, which is fixed beforehand; its other runs are predicted",
        "time of a step = base + misses * cost: the program copies on the stream that computes, nothing overlaps",
        f"misses: the one published trace, {len(replays.trace.topk_ids)} rows, warm cache; the measured prompts are "
        f"others; random eviction is the mean over {replays.seeds} seeds",
        "low, high: 90 % interval by the errors of the other GPU's predicted runs, which hold the noise of a run, its "
        "prompts and the calibration; no repeats were published",
        "tokens of the prompts are not published: they follow from rows of equally many prompts (20 to 28 each)",
        "the two constants are ill-determined one by one: quote predictions, not constants",
    ]


def _calibrating(runs: Sequence[PublishedRun], case: Case) -> list[PublishedRun]:
    return [run for run in runs if (run.strategy, run.offloaded) == case]


def _point(row: Row) -> Point:
    low, high = interval_of(row) or (None, None)
    measured, predicted = number(row, "measured_tokens_per_s"), number(row, "predicted_tokens_per_s")
    return Point(str(row["gpu"]), measured, predicted, low, high, str(row["use"]))
