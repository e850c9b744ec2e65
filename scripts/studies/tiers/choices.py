"""Every choice of the rows that calibrate: how far a study's result rests on the one that it made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from scripts.studies.tiers.published import SERIES
from scripts.studies.tiers.series import Series
from scripts.studies.tiers.simulate import fitted, replayed

MET = 0.02
"""Relative error within which calibrating points count as met."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What all choices say together."""

    by_point: dict[tuple[str, str], float]
    """(series, label) of a point that some choice leaves to be predicted -> median error over them, percent."""
    tried: int
    unmet: int
    """Choices whose rows no figures meet: two rows that the model takes for alike, and which are not."""


def chosen(series: Series) -> Iterator[Series]:
    """The series with every choice of as many calibrating points."""
    count = sum(point.calibrates for point in series.points)
    for chosen_points in combinations(range(len(series.points)), count):
        points = tuple(replace(point, calibrates=at in chosen_points) for at, point in enumerate(series.points))
        yield replace(series, points=points)


def errors_of(series: Series, known: dict[str, float]) -> dict[str, float] | None:
    """Absolute error in percent of each point that is predicted; None where the calibrating ones are not met."""
    values = fitted(series, known)
    off = {p.label: abs(1 / replayed(series, p, values)["seconds"] / p.measured - 1) for p in series.points}
    if any(off[point.label] > MET for point in series.points if point.calibrates):
        return None
    return {point.label: 100 * off[point.label] for point in series.points if not point.calibrates}


def every_choice() -> Choices:
    """All choices of all series; what a series begins with are another's figures by its own choice."""
    found: dict[str, dict[str, float]] = {}
    by_point: dict[tuple[str, str], list[float]] = {}
    tried = unmet = 0
    for series in SERIES:
        known = found.get(series.fitted_on, {})
        found[series.name] = fitted(series, known)
        for one in chosen(series):
            errors = errors_of(one, known)
            tried, unmet = tried + 1, unmet + (errors is None)
            for label, error in (errors or {}).items():
                by_point.setdefault((series.name, label), []).append(error)
    return Choices({point: float(np.median(errors)) for point, errors in by_point.items()}, tried, unmet)
