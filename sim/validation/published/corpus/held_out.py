"""Every row predicted without its machine, then after the first one and the first two rows of its group.

A machine's *family* is held out together: machines that one author names beside a GPU or CPU of the same name may be
one machine read twice. A *group* is what one calibration is worth: rows of a machine, a build of a runtime and a kind
of placement. Intervals come from the errors that the same procedure made on other families.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.statistics.prediction_interval import reach
from sim.validation.published.corpus.estimate import (
    Fitted,
    Problem,
    calibrate,
    fit,
    problem_of,
    seconds,
    widened,
    widths,
)
from sim.validation.published.corpus.rule import Setting
from sim.validation.published.corpus.terms import Terms, blind

STAGES = (0, 1, 2)
"""Rows of a group that calibrate it: the first ones in the file."""


@dataclass(slots=True)
class Prediction:
    """A row beside what is predicted of it: tokens per second by stage; a stage is missing where the row calibrates."""

    setting: Setting
    terms: Terms
    family: str
    blind: bool
    """All rates that it needs are known: the prediction without a row of its machine counts."""
    predicted: dict[int, float] = field(default_factory=dict)
    width: dict[int, float] = field(default_factory=dict)
    """Relative error that the model itself expects."""
    interval: dict[int, tuple[float, float]] = field(default_factory=dict)
    by_each: list[float] = field(default_factory=list)
    """Tokens per second after one row, for each other row of the group as that one."""
    by_other: list[float] = field(default_factory=list)
    """So for each row of the machine that is of another group."""

    def counts(self, stage: int) -> bool:
        """Whether the prediction of a stage is scored."""
        return stage in self.predicted and (stage > 0 or self.blind)

    def log_error(self, stage: int) -> float:
        """Logarithm of predicted over measured tokens per second."""
        return float(np.log(self.predicted[stage] / self.setting.measured))


def families(settings: Sequence[Setting]) -> dict[str, str]:
    """Family of each machine: joined where one author's rows name a GPU or a CPU alike."""
    parent: dict[str, str] = {setting.row.machine_id: setting.row.machine_id for setting in settings}

    def root(machine: str) -> str:
        while parent[machine] != machine:
            machine = parent[machine]
        return machine

    first: dict[tuple[str, str], str] = {}
    for setting in settings:
        author = re.split(r"[#\s;]|/doc", setting.row.source.lower())[0]
        for part in (setting.rates.gpu, setting.rates.cpu):
            if part is not None:
                alike = first.setdefault((author, part.part), setting.row.machine_id)
                parent[root(setting.row.machine_id)] = root(alike)
    return {machine: root(machine) for machine in parent}


def predict_all(
    training: Sequence[Setting],
    settings: Sequence[Setting],
    held_together: Callable[[Sequence[Setting]], dict[str, str]] = families,
) -> list[Prediction]:
    """Predict ``settings`` by what is fitted on ``training``, without the families that a row belongs to.

    Where both are the same rows this is leave-one-machine-out. ``held_together``: family of each machine.
    """
    together = {(setting.row.machine_id, setting.row.row_id): setting for setting in (*training, *settings)}
    family = held_together(list(together.values()))
    trained = _predict(training, training, family)
    found = trained if list(settings) == list(training) else _predict(training, settings, family)
    for prediction in found:
        _set_intervals(prediction, trained)
    return found


def _predict(training: Sequence[Setting], settings: Sequence[Setting], family: dict[str, str]) -> list[Prediction]:
    source = problem_of(training)
    source_family = np.array([family[setting.row.machine_id] for setting in training])
    problem = problem_of(settings)
    predictions = [
        Prediction(setting, terms, family[setting.row.machine_id], blind(setting))
        for setting, terms in zip(settings, problem.terms, strict=True)
    ]
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, setting in enumerate(settings):
        groups.setdefault(setting.key, []).append(place)
    fitted: dict[str, Fitted] = {}
    for places in groups.values():
        held = predictions[places[0]].family
        held = held if held in source_family else ""
        if held not in fitted:
            fitted[held] = fit_families(source, source_family, held)
        _predict_group(problem, places, fitted[held], predictions)
        name = settings[places[0]].row.machine_id
        others = [at for at, setting in enumerate(settings) if setting.row.machine_id == name and at not in places]
        _predict_by_others(problem, places, others, fitted[held], predictions)
    return predictions


def fit_families(problem: Problem, family: NDArray[np.str_], held: str = "") -> Fitted:
    """Parameters by all rows but those of a family; each family counts as one row."""
    kept = family != held
    counts = Counter(family[kept].tolist())
    weights = np.array([1.0 / counts[name] for name in family[kept].tolist()])
    return fit(problem.chosen(kept), weights)


def _predict_group(rows: Problem, places: list[int], fitted: Fitted, predictions: list[Prediction]) -> None:
    problem, parameters = widened(rows, fitted.errors), fitted.values
    for stage in STAGES:
        if len(places) <= stage:
            continue
        calibrating = problem.chosen(_mask(problem, places[:stage]))
        rest = problem.chosen(_mask(problem, places[stage:]))
        factors = calibrate(calibrating, parameters)
        values = seconds(rest, parameters, factors)
        errors = widths(rest, parameters, factors, calibrating)
        for place, value, error in zip(places[stage:], values.tolist(), errors.tolist(), strict=True):
            predictions[place].predicted[stage] = 1.0 / value
            predictions[place].width[stage] = error
    for one in places if len(places) > 1 else ():
        others = [place for place in places if place != one]
        factors = calibrate(problem.chosen(_mask(problem, [one])), parameters)
        values = seconds(problem.chosen(_mask(problem, others)), parameters, factors)
        for place, value in zip(others, values.tolist(), strict=True):
            predictions[place].by_each.append(1.0 / value)


def _predict_by_others(
    rows: Problem, places: list[int], others: list[int], fitted: Fitted, predictions: list[Prediction]
) -> None:
    """A group after one row of the same machine with another runtime, build or kind of placement, each in turn."""
    problem, parameters = widened(rows, fitted.errors), fitted.values
    group = problem.chosen(_mask(problem, places))
    for one in others:
        factors = calibrate(problem.chosen(_mask(problem, [])), parameters, problem.chosen(_mask(problem, [one])))
        for place, value in zip(sorted(places), seconds(group, parameters, factors).tolist(), strict=True):
            predictions[place].by_other.append(1.0 / value)


def _mask(problem: Problem, places: Sequence[int]) -> NDArray[np.bool_]:
    mask = np.zeros(len(problem), np.bool_)
    mask[list(places)] = True
    return mask


def _set_intervals(prediction: Prediction, trained: Sequence[Prediction]) -> None:
    """The interval of each stage, by the errors of other families over the errors that the model expected of them."""
    for stage, value in prediction.predicted.items():
        others = [other for other in trained if other.family != prediction.family and other.counts(stage)]
        scores = [other.log_error(stage) / other.width[stage] for other in others]
        times = reach(scores, [other.family for other in others])
        if times is not None:
            factor = float(np.exp(times * prediction.width[stage]))
            prediction.interval[stage] = (value / factor, value * factor)
