"""What forecasts rest on: FITTED shares and the errors of machines that were held out.

Tables that `python -m sim validate published=corpus` writes: `parameters.csv`, `scores.csv` and `prefill.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sim.statistics.prediction_interval import reach
from sim.validation.published.corpus.estimate import NAMES, Fitted, Problem, Vector, problem_of, widened
from sim.validation.published.corpus.parts import SHIPPED
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


@cache
def shipped_fit() -> Fitted:
    """The FITTED parameters and what is open of each, in the order of the corpus' names."""
    columns = ("parameter", "value", "relative_error")
    rows = {row["parameter"]: row for row in read_csv(shipped_table(PARAMETERS), columns)}
    missing = [name for name in NAMES if name not in rows]
    if missing:
        raise UserError(f"{PARAMETERS} has no {missing[0]}: `python -m sim validate published=corpus` writes it")

    def column(name: str, least: float, most: float) -> Vector:
        return np.array([cell_number(PARAMETERS, at, name, rows[at][name], least, most) for at in NAMES])

    return Fitted(np.log(column("value", 1e-9, 1e15)), column("relative_error", 0.0, 9.0))


def shipped_parameters() -> Vector:
    """Logarithms of the FITTED parameters, in the order of the corpus' names."""
    return shipped_fit().values


def shares_of(parameters: Vector) -> dict[str, float]:
    """Parameters by name."""
    return dict(zip(NAMES, np.exp(parameters).tolist(), strict=True))


def open_problem(settings: Sequence[Setting]) -> Problem:
    """Settings ready to be predicted, with what is open of the shipped parameters in the spread of their factors."""
    return widened(problem_of(settings), shipped_fit().errors)


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
        for row in read_csv(shipped_table(SCORES), columns)
    )


def shipped_table(name: str) -> Path:
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
