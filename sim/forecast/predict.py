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

from sim.machine.model import Dimensions
from sim.statistics.prediction_interval import reach
from sim.validation.published.corpus.estimate import (
    CLASSES,
    FACTORS,
    NAMES,
    ROW_NOISE,
    UNKNOWN_SPREAD,
    Fitted,
    Problem,
    Vector,
    calibrate,
    gradient,
    problem_of,
    seconds,
    widened,
)
from sim.validation.published.corpus.parts import SHIPPED, STATED
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
    plain: float = 0.0
    """Tokens per second without rows of this machine."""
    rows: tuple[str, ...] = ()
    """Names of the rows, with their models."""
    as_wide: bool = True
    """The interval is as wide as without rows."""
    close: str = ""
    """What would be waited for next, hardly less than what is: RAM behind the CPU's cores, or the reverse."""


@cache
def shipped_fit() -> Fitted:
    """The FITTED parameters and what is open of each, in the order of the corpus' names."""
    columns = ("parameter", "value", "relative_error")
    rows = {row["parameter"]: row for row in read_csv(_shipped(PARAMETERS), columns)}
    missing = [name for name in NAMES if name not in rows]
    if missing:
        raise UserError(f"{PARAMETERS} has no {missing[0]}: `python -m sim validate published=corpus` writes it")

    def column(name: str, least: float, most: float) -> Vector:
        return np.array([cell_number(PARAMETERS, at, name, rows[at][name], least, most) for at in NAMES])

    return Fitted(np.log(column("value", 1e-9, 1e15)), column("relative_error", 0.0, 9.0))


def shipped_parameters() -> Vector:
    """Logarithms of the FITTED parameters, in the order of the corpus' names."""
    return shipped_fit().values


def open_problem(settings: Sequence[Setting]) -> Problem:
    """Settings ready to be predicted, with what is open of the shipped parameters in the spread of their factors."""
    return widened(problem_of(settings), shipped_fit().errors)


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


def forecast(
    setting: Setting,
    own_rows: Sequence[Setting],
    with_fewer_hits: Setting | None = None,
    layers: Layers = (),
    fewer_layers: Layers = (),
) -> Forecast:
    """The forecast of a setting.

    ``own_rows``: measured on the same machine; those of the setting's group calibrate it. Rows that no factors of one
    machine explain widen the interval by how much they disagree; where all are of other models it stays as wide as
    without them: nothing published says how far a factor carries. ``layers`` [top_k + 1]: share of layers that miss so
    many of their experts, each computed on the CPU; the mean time of such layers counts, for the CPU's time hides
    behind the GPU's in some only. ``with_fewer_hits``, ``fewer_layers``: the same where hits, which nobody measured,
    are one standard error lower.
    """
    parameters = shipped_parameters()
    rows = [row for row in own_rows if row.kind == setting.kind]
    mixed = Mixed.of(setting, layers)
    before = open_problem(list(rows))
    if len(before):
        before = replace(before, spread=np.repeat(mixed.problem.spread[:1], len(before), axis=0))
    nothing = np.zeros(len(FACTORS))
    factors = calibrate(before, parameters)
    value, plain = mixed.seconds(parameters, factors), mixed.seconds(parameters, nothing)
    width = mixed.width(parameters, factors, before) * disagreement(before, parameters, factors)
    stage = len(rows)
    if rows and all(model_key(row.model) != model_key(setting.model) for row in rows):
        stage, width = 0, max(width, mixed.width(parameters, nothing, open_problem([])))
    if with_fewer_hits is not None:
        slower = Mixed.of(with_fewer_hits, fewer_layers).seconds(parameters, factors)
        width = float(np.hypot(width, np.log(slower / value)))
    factor = float(np.exp(times_width(stage) * width))
    names = tuple(f"{row.row.row_id or 'the row before'} ({row.row.model})" for row in rows)
    shares = mixed.parts(parameters, factors)
    close = mixed.close(parameters, factors)
    return Forecast(
        1 / value, 1 / value / factor, factor / value, len(rows), shares, 1 / plain, names, stage == 0, close
    )


Layers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """One plan as layers of several kinds, ``weights`` of each: those that miss 0, 1, ... of their experts."""

    problem: Problem
    weights: Vector

    @classmethod
    def of(cls, setting: Setting, layers: Layers) -> Mixed:
        """The setting itself where nothing is known of single layers."""
        if not layers:
            return cls(open_problem([setting]), np.ones(1))
        most = len(layers) - 1
        kinds = [
            replace(setting, placement=replace(setting.placement, gpu_share=1 - missed / most))
            for missed in range(most + 1)
        ]
        return cls(open_problem(kinds), np.array(layers))

    def seconds(self, parameters: Vector, factors: Vector) -> float:
        """Of a token."""
        return float(self.weights @ seconds(self.problem, parameters, factors))

    def width(self, parameters: Vector, factors: Vector, calibrating: Problem) -> float:
        """Relative error that is left, as ``estimate.widths`` has it of one kind of layer."""
        precision = np.diag(1.0 / self.problem.spread[0] ** 2)
        if len(calibrating):
            told = gradient(calibrating, parameters, factors)
            precision = precision + told.T @ told / ROW_NOISE**2
        parts = self.weights * seconds(self.problem, parameters, factors)
        slope = parts @ gradient(self.problem, parameters, factors) / parts.sum()
        return float(np.sqrt(slope @ np.linalg.inv(precision) @ slope + ROW_NOISE**2))

    def parts(self, parameters: Vector, factors: Vector) -> dict[str, float]:
        """Share of the time by what it waits for, largest first."""
        times = self.weights * seconds(self.problem, parameters, factors)
        found: dict[str, float] = {}
        for place in np.flatnonzero(times):
            chosen = self.problem.chosen(np.arange(len(times)) == place)
            for name, share in parts_of(chosen, parameters, factors).items():
                found[name] = found.get(name, 0.0) + share * float(times[place] / times.sum())
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def close(self, parameters: Vector, factors: Vector) -> str:
        """Which of RAM and the CPU's cores is nearly as slow as the other, where the token waits longest for them."""
        times = self.weights * seconds(self.problem, parameters, factors) * (self.problem.columns["dram_s"] > 0)
        if not times.any():
            return ""
        slowest = self.problem.chosen(np.arange(len(times)) == times.argmax())
        by_dram, by_cores, beside = cpu_seconds(slowest, parameters, factors)
        most = max(by_dram, by_cores)
        near = min(by_dram, by_cores) >= CLOSE * most and beside <= most
        return ("RAM" if by_dram < by_cores else "CPU cores") if near else ""


CLOSE = 0.75
"""Share of the slower one's time: less apart than the rates of RAM and cores of a named machine are known."""


def model_key(sizes: Dimensions) -> tuple[float, ...]:
    """What tells models apart, whatever they are called: sizes and bits."""
    return (sizes.num_layers, sizes.num_experts, sizes.top_k, sizes.hidden_size, round(sizes.weight_bits, 1))


def disagreement(rows: Problem, parameters: Vector, factors: Vector) -> float:
    """How many times a row's own noise rows lie from what one machine's factors make of them; 1 where they agree."""
    if not len(rows):
        return 1.0
    left = (np.log(seconds(rows, parameters, factors)) - rows.log_measured_s) / ROW_NOISE
    return max(1.0, float(np.sqrt(np.mean(left**2))))


def most_tokens_per_s(setting: Setting) -> float:
    """Tokens per second that no software reaches: bytes that a token must read over nominal rates, no other cost.

    Where nobody stated the rate of RAM or of the link, what its kind allows beyond the datasheet is allowed here, too.
    """
    (column,) = problem_of([setting]).terms
    rates = setting.rates
    ram = 1.0 if rates.ram_known == STATED else 1 + UNKNOWN_SPREAD
    link = 1.0 if rates.link_known == STATED else 1 + UNKNOWN_SPREAD
    least = column.gpu_s + max(column.dram_s / ram, column.beside_s) + max(column.link_s / link, column.hits_s)
    return (1 + OVERCLOCK) / max(least, 1e-9)


OVERCLOCK = 0.1
"""Beyond a nominal rate: ESTIMATED, what memory is run at above its name."""


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


def cpu_seconds(problem: Problem, parameters: Vector, factors: Vector) -> tuple[float, float, float]:
    """Of one setting's token, at the same time: reading from RAM, arithmetic of the cores, the GPU beside them."""
    value = shares_of(parameters)
    own = dict(zip(FACTORS, np.exp(factors).tolist(), strict=True))
    column = {name: float(values[0]) for name, values in problem.columns.items()}
    flops = value["core_flops_per_s_other" if problem.other_cores[0] else "core_flops_per_s"] * own["core"]
    return (
        column["dram_s"] / (value["dram_share"] * own["dram"]),
        2 * column["cpu_weights"] / (column["cores"] * flops),
        column["beside_s"] / (value["gpu_share"] * own["gpu"]),
    )


def parts_of(problem: Problem, parameters: Vector, factors: Vector) -> dict[str, float]:
    """Of one setting's token: share of the time by what it waits for, largest first."""
    value = shares_of(parameters)
    own = dict(zip(FACTORS, np.exp(factors).tolist(), strict=True))
    column = {name: float(values[0]) for name, values in problem.columns.items()}
    gpu_rate = value["gpu_share"] * own["gpu"]
    software = value[f"software_{CLASSES[int(problem.classes[0])]}"] * own["software"]
    by_dram, by_cores, beside = cpu_seconds(problem, parameters, factors)
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
