"""Small least-squares fits: a line through copy or computing times, and two costs from two kinds of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope * x, with standard errors."""

    intercept: float
    slope: float
    intercept_error: float
    slope_error: float


def line(x: Vector, y: Vector) -> Line:
    """The line of least relative error through points: times of small and of large copies count alike.

    A negative intercept is impossible for a time; then the line goes through 0.
    """
    weights = 1.0 / np.maximum(y, 1e-12)
    design = np.stack([np.ones_like(x), x], axis=1)
    found, errors = weighted(design, y, weights)
    if found[0] < 0:
        slope, error = weighted(design[:, 1:], y, weights)
        return Line(0.0, float(slope[0]), 0.0, float(error[0]))
    return Line(float(found[0]), float(found[1]), float(errors[0]), float(errors[1]))


def weighted(design: Vector, y: Vector, weights: Vector) -> tuple[Vector, Vector]:
    """(coefficients, their standard errors) of weighted least squares; errors NaN without degrees of freedom."""
    scaled, target = design * weights[:, None], y * weights
    found: Vector = np.asarray(np.linalg.lstsq(scaled, target, rcond=None)[0], np.float64)
    freedom = y.size - design.shape[1]
    if freedom <= 0:
        return found, np.full(found.size, np.nan)
    variance = float(((target - scaled @ found) ** 2).sum()) / freedom
    covariance = np.linalg.pinv(scaled.T @ scaled) * variance
    return found, np.asarray(np.sqrt(np.diag(covariance)), np.float64)


def fit_costs(
    predict: Callable[[Vector], Vector], measured: Vector, start: Vector, steps: Vector, iterations: int = 4
) -> tuple[Vector, Vector, Vector]:
    """Costs >= 0 with which predictions come closest to what was measured, relative to it.

    Gauss-Newton with finite differences ``steps``: waiting hides costs, so predictions are not linear in them.
    Returns (costs, standard errors, relative residuals).
    """
    costs, weights = start.copy(), 1.0 / measured
    errors = np.full(costs.size, np.nan)
    for _ in range(iterations):
        base = predict(costs)
        slopes = np.stack(
            [
                (predict(costs + step * unit) - base) / step
                for step, unit in zip(steps, np.eye(costs.size), strict=True)
            ],
            axis=1,
        )
        change, errors = weighted(slopes, measured - base, weights)
        costs = np.maximum(0.0, costs + change)
    return costs, errors, (measured - predict(costs)) / measured
