"""Tokens per second of plans, with the corpus' own method: fitted shares, a machine's own rows, conformal intervals.

What is fitted and what it missed on machines that were held out stands in the tables that
`python -m sim validate published=corpus` writes: `parameters.csv` and `scores.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from sim.statistics.prediction_interval import reach
from sim.validation.published.corpus.estimate import (
    CLASSES,
    FACTORS,
    NAMES,
    Problem,
    Vector,
    calibrate,
    problem_of,
    seconds,
    widths,
)
from sim.validation.published.corpus.parts import SHIPPED
from sim.validation.published.corpus.prefill import expressible, factor_of, prompt_s
from sim.validation.published.corpus.rule import Setting
from sim.validation.published.corpus.tables import cell_number, read_csv
from traces.errors import UserError

PARAMETERS, SCORES, PREFILL = "parameters.csv", "scores.csv", "prefill.csv"
MOST_ROWS_BEFORE = 2
"""Rows of a machine after which the corpus states errors; more rows calibrate further, the interval stays that wide."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a prediction of the corpus missed (a logarithm) beside what was expected of it."""

    family: str
    runtime: str
    placement: str
    rows_before: int
    log_error: float
    width: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Tokens per second of one plan, SIMULATED terms with FITTED shares; ``low`` and ``high`` hold 90 %."""

    tokens_per_s: float
    low: float
    high: float
    rows_before: int
    """Rows of this machine that calibrated it."""
    shares: dict[str, float]
    """Of a token's time: what it waits for."""


@cache
def shipped_parameters() -> Vector:
    """Logarithms of the FITTED parameters, in the order of the corpus' names."""
    rows = {row["parameter"]: row["value"] for row in read_csv(_shipped(PARAMETERS), ("parameter", "value"))}
    missing = [name for name in NAMES if name not in rows]
    if missing:
        raise UserError(f"{PARAMETERS} has no {missing[0]}: `python -m sim validate published=corpus` writes it")
    return np.log([cell_number(PARAMETERS, name, "value", rows[name], 1e-9, 1e15) for name in NAMES])


def shares_of(parameters: Vector) -> dict[str, float]:
    """Parameters by name."""
    return dict(zip(NAMES, np.exp(parameters).tolist(), strict=True))


@cache
def shipped_scores() -> tuple[Score, ...]:
    """Errors of the corpus' predictions of machines that were held out."""
    columns = ("row", "family", "runtime", "placement", "rows_before", "log_error", "width")
    return tuple(
        Score(
            row["family"],
            row["runtime"],
            row["placement"],
            int(cell_number(SCORES, row["row"], "rows_before", row["rows_before"], 0, 9)),
            cell_number(SCORES, row["row"], "log_error", row["log_error"], -99, 99),
            cell_number(SCORES, row["row"], "width", row["width"], 1e-9, 99),
        )
        for row in read_csv(_shipped(SCORES), columns)
    )


def _shipped(name: str) -> Path:
    if not (SHIPPED / name).is_file():
        raise UserError(f"{SHIPPED} holds no {name}: forecasts are read from the project's folder (pip install -e .)")
    return SHIPPED / name


def times_width(rows_before: int) -> float:
    """How many expected errors a forecast may miss by with probability 90 %, by what the corpus missed."""
    stage = min(rows_before, MOST_ROWS_BEFORE)
    scores = [score for score in shipped_scores() if score.rows_before == stage]
    times = reach([score.log_error / score.width for score in scores], [score.family for score in scores])
    if times is None:
        raise UserError(f"{SCORES} has no rows with rows_before={stage}")
    return times


def error_after_one_row() -> float:
    """Median relative error of the corpus' rows after one row of their machine."""
    errors = [abs(np.expm1(score.log_error)) for score in shipped_scores() if score.rows_before == 1]
    return float(np.median(errors))


def is_checked(runtime: str, placement: str) -> bool:
    """Whether a published row of that class of runtimes and kind of placement was predicted without its machine."""
    return any(
        score.runtime == runtime and score.placement == placement and score.rows_before == 0
        for score in shipped_scores()
    )


def forecast(setting: Setting, own_rows: Sequence[Setting], with_fewer_hits: Setting | None = None) -> Forecast:
    """The forecast of a setting.

    ``own_rows``: measured on the same machine; those of the setting's group calibrate it. ``with_fewer_hits``: the same
    where its hits, which nobody measured, are one standard error lower.
    """
    parameters = shipped_parameters()
    rows = [row for row in own_rows if row.kind == setting.kind]
    problem = problem_of([setting])
    before = problem_of(list(rows))
    if len(before):
        before = replace(before, spread=np.repeat(problem.spread, len(before), axis=0))
    factors = calibrate(before, parameters)
    value = float(seconds(problem, parameters, factors)[0])
    width = float(widths(problem, parameters, factors, before)[0])
    if with_fewer_hits is not None:
        slower = float(seconds(problem_of([with_fewer_hits]), parameters, factors)[0])
        width = float(np.hypot(width, np.log(slower / value)))
    factor = float(np.exp(times_width(len(rows)) * width))
    shares = parts_of(problem, parameters, factors)
    return Forecast(1 / value, 1 / value / factor, factor / value, len(rows), shares)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Seconds from a prompt to its first token; ``low`` and ``high`` hold 90 %."""

    prompt: int
    seconds: float
    low: float
    high: float
    families: int
    """Of machines whose published prompts say how far it may be off."""


def first_token(setting: Setting, prompt: int, token_s: float) -> FirstToken | None:
    """The time to the first token of a plan; None where no published prompt of its kind can be expressed."""
    rates = setting.rates
    reads = setting.placement.miss > 0
    if reads or not expressible(setting.runtime, setting.placement.kind) or rates.unified or rates.gpu is None:
        return None
    columns = ("row", "family", "measured_over_terms", "log_error")
    rows = [
        (
            row["family"],
            cell_number(PREFILL, row["row"], "measured_over_terms", row["measured_over_terms"], 1e-9, 1e9),
            cell_number(PREFILL, row["row"], "log_error", row["log_error"], -99, 99),
        )
        for row in read_csv(_shipped(PREFILL), columns)
    ]
    families = [family for family, _, _ in rows]
    wide = reach([error for _, _, error in rows], families)
    if wide is None or not rates.gpu.fp16_tflops:
        return None
    factor, times = factor_of([(ratio, 1.0, family) for family, ratio, _ in rows]), float(np.exp(wide))
    expected = factor * prompt_s(setting, prompt) + token_s
    return FirstToken(prompt, expected, expected / times, expected * times, len(set(families)))


def parts_of(problem: Problem, parameters: Vector, factors: Vector) -> dict[str, float]:
    """Of one setting's token: share of the time by what it waits for, largest first."""
    value = shares_of(parameters)
    own = dict(zip(FACTORS, np.exp(factors).tolist(), strict=True))
    column = {name: float(values[0]) for name, values in problem.columns.items()}
    gpu_rate = value["gpu_share"] * own["gpu"]
    software = value[f"software_{CLASSES[int(problem.classes[0])]}"] * own["software"]
    flops = value["core_flops_per_s_other" if problem.other_cores[0] else "core_flops_per_s"] * own["core"]
    by_dram = column["dram_s"] / (value["dram_share"] * own["dram"])
    by_cores = 2 * column["cpu_weights"] / (column["cores"] * flops)
    beside = column["beside_s"] / gpu_rate
    parts = {
        "GPU memory": column["gpu_s"] / gpu_rate,
        "software": column["software_s"] * software,
        "storage": column["storage_s"] / (value["storage_share"] * own["storage"]),
    }
    copies = column["link_s"] / (value["link_share"] * own["link"])
    hits = (column["hits_s"] / gpu_rate, column["hits_software_s"] * software)
    for slowest in (
        [max((by_dram, "RAM"), (by_cores, "CPU cores"), (beside, "GPU memory"))],
        [(copies, "link")] if copies >= sum(hits) else [(hits[0], "GPU memory"), (hits[1], "software")],
    ):
        for amount, name in slowest:
            parts[name] = parts.get(name, 0.0) + amount
    total = sum(parts.values())
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    return {name: amount / total for name, amount in ranked if amount > 0}
