"""What a validation found: tables, points of measured and predicted values, a summary, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cell = float | int | str | bool | None
Row = dict[str, Cell]
STATISTICS = ("mean", "p50", "p90", "p99")
PREDICTED, CALIBRATION = "predicted", "calibration"
"""Use of a measured value: held out, or a constant was fitted on it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value and the prediction of it, with the interval of the prediction where there is one."""

    series: str
    measured: float
    predicted: float
    low: float | None = None
    high: float | None = None
    use: str = PREDICTED
    name: str = ""
    """Of the point alone: figures of errors have a line for each name."""


@dataclass(slots=True)
class Findings:
    """Tables in the order in which they are shown, figures over all of them, and what a reader must know."""

    name: str
    title: str
    unit: str
    """Of the points: the axes of the figure."""
    summary: dict[str, Any]
    tables: dict[str, list[Row]]
    notes: list[str]
    points: list[Point] = field(default_factory=list)
    log_axes: bool = False


def signed_error_percent(predicted: float, measured: float) -> float:
    """100 * (predicted / measured - 1): positive where the prediction is too large."""
    return 100.0 * (predicted / measured - 1.0)


def error_summary(errors_percent: Sequence[float]) -> dict[str, float | int | None]:
    """How many errors, the mean of their size, and the one that is largest, with its sign."""
    if not errors_percent:
        return {"count": 0, "mean_absolute_error_percent": None, "worst_error_percent": None}
    return {
        "count": len(errors_percent),
        "mean_absolute_error_percent": sum(map(abs, errors_percent)) / len(errors_percent),
        "worst_error_percent": max(errors_percent, key=abs),
    }


def statistic_of(name: str, values: NDArray[np.float64]) -> float:
    """``mean``, or a percentile such as ``p90``."""
    return float(values.mean() if name == "mean" else np.percentile(values, int(name[1:])))


def correlation(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Pearson's coefficient; None where one of both does not vary."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def fitted_rows(constants: Mapping[str, float]) -> list[Row]:
    """A row for every fitted constant."""
    return [{"constant": name, "value": value, "label": "FITTED"} for name, value in constants.items()]


def number(row: Row, name: str) -> float:
    """A cell that holds a number."""
    value = row[name]
    assert isinstance(value, int | float)
    return float(value)


def interval_of(row: Row) -> tuple[float, float] | None:
    """The columns ``low`` and ``high``, where both are known."""
    return None if row["low"] is None or row["high"] is None else (number(row, "low"), number(row, "high"))


def errors_of(rows: Iterable[Row]) -> list[float]:
    """The column ``error_percent``."""
    return [number(row, "error_percent") for row in rows]
