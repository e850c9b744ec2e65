"""Small least-squares fits: a line through copy or computing times, and two costs from two kinds of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
NEWTON_STEPS, SIMPLEX_STEPS = 4, 80


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
    coefficients, errors = weighted(design, y, weights)
    if coefficients[0] < 0:
        slope, error = weighted(design[:, 1:], y, weights)
        return Line(0.0, float(slope[0]), 0.0, float(error[0]))
    return Line(float(coefficients[0]), float(coefficients[1]), float(errors[0]), float(errors[1]))


def weighted(design: Vector, y: Vector, weights: Vector) -> tuple[Vector, Vector]:
    """(coefficients, their standard errors) of weighted least squares; errors NaN without degrees of freedom."""
    scaled, target = design * weights[:, None], y * weights
    coefficients: Vector = np.asarray(np.linalg.lstsq(scaled, target, rcond=None)[0], np.float64)
    freedom = y.size - design.shape[1]
    if freedom <= 0:
        return coefficients, np.full(coefficients.size, np.nan)
    variance = float(((target - scaled @ coefficients) ** 2).sum()) / freedom
    covariance = np.linalg.pinv(scaled.T @ scaled) * variance
    return coefficients, np.asarray(np.sqrt(np.diag(covariance)), np.float64)


def fit_costs(
    predict: Callable[[Vector], Vector], measured: Vector, start: Vector, steps: Vector
) -> tuple[Vector, Vector, Vector]:
    """Costs >= 0 with which predictions come closest to what was measured, relative to it.

    Waiting hides costs, so predictions have kinks: Gauss-Newton with finite differences ``steps`` comes near, a simplex
    (Nelder and Mead 1965, doi 10.1093/comjnl/7.4.308) does the rest.
    Returns (costs, standard errors, relative residuals).
    """
    from scipy.optimize import minimize

    def misses(units: Vector) -> Vector:
        return (measured - predict(np.maximum(0.0, units) * steps)) / measured

    def slopes(units: Vector) -> Vector:
        base = misses(units)
        return np.stack([base - misses(units + unit) for unit in np.eye(units.size)], axis=1)

    def square(units: Vector) -> float:
        return float((misses(units) ** 2).sum())

    units, best = start / steps, start / steps
    even = np.ones(measured.size)
    for _ in range(NEWTON_STEPS):
        units = np.maximum(0.0, units + weighted(slopes(units), misses(units), even)[0])
        best = min(best, units, key=square)
    simplex = best + np.concatenate([np.zeros((1, best.size)), np.diag(np.maximum(1.0, 0.1 * best))])
    options = {"initial_simplex": simplex, "maxfev": SIMPLEX_STEPS, "xatol": 1e-3, "fatol": 1e-12}
    polished = np.maximum(0.0, minimize(square, best, method="Nelder-Mead", options=options).x)
    best = min(best, polished, key=square)
    _, errors = weighted(slopes(best), misses(best), even)
    return best * steps, errors * steps, misses(best)
