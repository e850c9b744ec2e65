"""Shares of nominal rates and factors on software, FITTED over machines and then on one machine's own rows.

Two steps of one method. ``fit`` finds, from rows of other machines, what their memories, links, cores and runtimes
share; what few rows speak of stays near the figure of `conf/runtime`, within the error stated there (maximum a
posteriori). ``calibrate`` then moves a machine's own factors by one or two of its rows, each within the spread that
machines have. With no row of a machine its factors are 1. All of it in logarithms, where errors are alike.

What the first step leaves open of a parameter (few machines of a class of runtimes) is open of a machine's own factor
on it, too: ``widened`` adds both, so that a row moves the term that is known least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from sim.validation.published.corpus.parts import SPECIFIED
from sim.validation.published.corpus.placement import CPU_ONLY
from sim.validation.published.corpus.rule import GRAPHS, IMP, KTRANSFORMERS, LLAMA, OTHER, Setting
from sim.validation.published.corpus.terms import Terms, terms_of

Vector = NDArray[np.float64]
ON_CPU = "all on the CPU"
CLASSES = (LLAMA, GRAPHS, KTRANSFORMERS, IMP, OTHER, ON_CPU)
"""Of software costs: classes of runtimes, and rows without a GPU, whose threads meet after every operation."""
PRIOR: dict[str, tuple[float, float]] = {
    "gpu_share": (0.8, 0.1),
    **{f"software_{name}": (1.0, error) for name, error in zip(CLASSES, (0.3, 0.5, 0.5, 0.5, 0.7, 1.0), strict=True)},
    "dram_share": (0.5, 0.3),
    "core_flops_per_s": (12e9, 0.5),
    "core_flops_per_s_other": (6e9, 0.7),
    "link_share": (0.9, 0.2),
    "storage_share": (0.8, 0.4),
}
"""(value, relative error) before any row: of `conf/runtime` and `conf/hardware` (the GPU's share, software costs, half
of a datasheet's DRAM rate), the others ESTIMATED."""
NAMES = tuple(PRIOR)
FACTORS = ("gpu", "software", "dram", "core", "link", "storage")
"""Of one machine, on top."""
SPREAD = (0.1, 0.3, 0.25, 0.3, 0.25, 0.4)
"""Relative spread of each factor among machines, ESTIMATED."""
SPECIFIED_SPREAD, UNKNOWN_SPREAD = 0.35, 0.6
"""Of a rate that only a datasheet of the CPU or of the GPU's lanes says, or that nothing says."""
SPECIFIED_STORAGE_SPREAD, UNKNOWN_STORAGE_SPREAD = 0.5, 1.0
"""So of storage: a named drive, or any, from .5 GB/s of SATA to 14 of PCIe 5 (standard deviation of the logarithm of
.5, 3.5, 7 and 14 GB/s: 1.2)."""
ROW_NOISE = 0.07
"""Relative spread of one row about its machine's own truth: builds, prompts, repeats."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows as arrays, [n] each, and how far each machine's factors may be from 1, [n, factors]."""

    settings: tuple[Setting, ...]
    terms: tuple[Terms, ...]
    columns: dict[str, Vector]
    classes: NDArray[np.int64]
    other_cores: NDArray[np.bool_]
    log_measured_s: Vector
    spread: Vector

    def chosen(self, rows: NDArray[np.bool_]) -> Problem:
        """Some of the rows."""
        places = np.flatnonzero(rows)
        return Problem(
            tuple(self.settings[i] for i in places),
            tuple(self.terms[i] for i in places),
            {name: values[rows] for name, values in self.columns.items()},
            self.classes[rows],
            self.other_cores[rows],
            self.log_measured_s[rows],
            self.spread[rows],
        )

    def __len__(self) -> int:
        return len(self.settings)


def problem_of(settings: Sequence[Setting]) -> Problem:
    """The rows ready to be fitted or predicted."""
    terms = tuple(terms_of(setting) for setting in settings)
    names = tuple(field.name for field in fields(Terms))
    return Problem(
        tuple(settings),
        terms,
        {name: np.array([getattr(term, name) for term in terms], np.float64) for name in names},
        np.array([CLASSES.index(class_of(setting)) for setting in settings], np.int64),
        np.array([setting.runtime == OTHER for setting in settings], np.bool_),
        -np.log(np.array([setting.measured for setting in settings], np.float64)),
        np.array([_spread(setting) for setting in settings], np.float64).reshape(-1, len(FACTORS)),
    )


def class_of(setting: Setting) -> str:
    """Whose software costs a row has."""
    return ON_CPU if setting.placement.kind == CPU_ONLY else setting.runtime


def _spread(setting: Setting) -> list[float]:
    spread = dict(zip(FACTORS, SPREAD, strict=True))
    rates = setting.rates
    if rates.gpu is not None:
        spread["gpu"] = float(np.hypot(spread["gpu"], rates.gpu.uncertainty))
    if rates.ram_known != "stated":
        spread["dram"] = SPECIFIED_SPREAD if rates.ram_known == SPECIFIED else UNKNOWN_SPREAD
    if rates.link_known != "stated":
        spread["link"] = SPECIFIED_SPREAD if rates.link_known == SPECIFIED else UNKNOWN_SPREAD
    if rates.ram_uncertainty is not None:
        spread["dram"] = rates.ram_uncertainty
    if rates.link_uncertainty is not None:
        spread["link"] = rates.link_uncertainty
    if rates.storage_known == SPECIFIED:
        spread["storage"] = SPECIFIED_STORAGE_SPREAD
    if rates.storage_bytes_per_s is None or setting.assumed:
        spread["storage"] = UNKNOWN_STORAGE_SPREAD
    if setting.assumed:
        spread["dram"] = UNKNOWN_SPREAD
    return [spread[name] for name in FACTORS]


def seconds(problem: Problem, parameters: Vector, factors: Vector | None = None) -> Vector:
    """[n] seconds per token; ``parameters`` as ``NAMES``, ``factors`` [n, factors] or [factors], logarithms of both.

    Weights over the sustained rate, software, the CPU's experts at the slower of DRAM and cores (or the GPU's beside
    them), copies (or the hits beside them) and reads one after the other: as ``sim.engine`` runs a layer without
    prefetches.
    """
    value = dict(zip(NAMES, np.exp(parameters).tolist(), strict=True))
    shape = (len(problem), len(FACTORS))
    own = np.ones(shape) if factors is None else np.broadcast_to(np.exp(factors), shape)
    gpu, software, dram, core, link, storage = own.T
    columns = problem.columns
    per_class = np.array([value[f"software_{name}"] for name in CLASSES])[problem.classes]
    flops = np.where(problem.other_cores, value["core_flops_per_s_other"], value["core_flops_per_s"])
    gpu_rate = value["gpu_share"] * gpu
    by_dram = columns["dram_s"] / (value["dram_share"] * dram)
    by_cores = 2.0 * columns["cpu_weights"] / (columns["cores"] * flops * core)
    on_cpu = np.maximum(by_dram, by_cores)
    total = columns["gpu_s"] / gpu_rate + columns["software_s"] * per_class * software
    total += np.maximum(on_cpu, columns["beside_s"] / gpu_rate)
    hits = columns["hits_s"] / gpu_rate + columns["hits_software_s"] * per_class * software
    total += np.maximum(columns["link_s"] / (value["link_share"] * link), hits)
    return np.asarray(total + columns["storage_s"] / (value["storage_share"] * storage), np.float64)


def prior() -> tuple[Vector, Vector]:
    """Logarithms of the parameters before any row, and their errors."""
    values = np.array(list(PRIOR.values()))
    return np.log(values[:, 0]), values[:, 1]


class Fitted(NamedTuple):
    """Logarithms of the parameters, as ``NAMES``, and the standard error that rows and prior leave of each."""

    values: Vector
    errors: Vector


def fit(problem: Problem, weights: Vector) -> Fitted:
    """The parameters that rows speak for, each row by its weight and by what its machine leaves open.

    Errors are those of the linear problem about the result (Laplace's approximation), the rows' weights in it.
    """
    mean, error = prior()
    if not len(problem):
        return Fitted(mean, error)
    reach = np.sqrt((gradient(problem, mean) ** 2 * problem.spread**2).sum(axis=1) + ROW_NOISE**2)

    def residuals(parameters: Vector) -> Vector:
        rows = np.log(seconds(problem, parameters)) - problem.log_measured_s
        return np.concatenate([np.sqrt(weights) * soft(rows / reach), (parameters - mean) / error])

    found = least_squares(residuals, mean, method="trf")
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    return Fitted(np.asarray(found.x, np.float64), np.sqrt(np.diag(covariance)))


def widened(problem: Problem, errors: Vector) -> Problem:
    """The rows with what is open of the parameters added to the spread of the factors that stand on them."""
    error = dict(zip(NAMES, errors.tolist(), strict=True))
    open_of = np.array(
        [
            [
                error["gpu_share"],
                error[f"software_{CLASSES[place]}"],
                error["dram_share"],
                error["core_flops_per_s_other" if other else "core_flops_per_s"],
                error["link_share"],
                error["storage_share"],
            ]
            for place, other in zip(problem.classes.tolist(), problem.other_cores.tolist(), strict=True)
        ]
    ).reshape(-1, len(FACTORS))
    return replace(problem, spread=np.hypot(problem.spread, open_of))


def soft(deviations: Vector) -> Vector:
    """Deviations with those beyond two of their widths drawn in, so that no single row decides (Huber's loss)."""
    size = np.abs(deviations)
    return np.asarray(
        np.sign(deviations) * np.where(size <= 2, size, np.sqrt(np.maximum(4 * size - 4, 0.0))), np.float64
    )


def gradient(problem: Problem, parameters: Vector, factors: Vector | None = None) -> Vector:
    """[n, factors] change of the logarithm of a row's seconds by the logarithm of each factor of its machine."""
    here = np.zeros(len(FACTORS)) if factors is None else factors
    step = 1e-4
    base = np.log(seconds(problem, parameters, here))
    columns = [
        (np.log(seconds(problem, parameters, here + step * (np.arange(len(FACTORS)) == i))) - base) / step
        for i in range(len(FACTORS))
    ]
    return np.stack(columns, axis=1)


SOFTWARE = FACTORS.index("software")


def calibrate(problem: Problem, parameters: Vector, others: Problem | None = None) -> Vector:
    """[factors] logarithms of a machine's own factors by its rows; 0 where they say nothing.

    ``others``: rows of the same machine with another runtime, build or kind of placement. They speak for its memories,
    cores, link and storage; their software is their own, and what is open of it makes them say less.
    """
    others = problem.chosen(np.zeros(len(problem), np.bool_)) if others is None else others
    if not len(problem) and not len(others):
        return np.zeros(len(FACTORS))
    spread = (problem if len(problem) else others).spread[0]
    theirs = gradient(others, parameters)[:, SOFTWARE] * others.spread[:, SOFTWARE]
    noise = np.hypot(ROW_NOISE, theirs)
    hardware = np.arange(len(FACTORS)) != SOFTWARE

    def residuals(factors: Vector) -> Vector:
        rows = np.log(seconds(problem, parameters, factors)) - problem.log_measured_s
        far = np.log(seconds(others, parameters, factors * hardware)) - others.log_measured_s
        return np.concatenate([rows / ROW_NOISE, far / noise, factors / spread])

    return np.asarray(least_squares(residuals, np.zeros(len(FACTORS))).x, np.float64)


def widths(problem: Problem, parameters: Vector, factors: Vector, calibrating: Problem) -> Vector:
    """[n] relative error left for each row once some calibrate: of what they leave open, and of a row itself."""
    precision = np.diag(1.0 / problem.spread[0] ** 2)
    if len(calibrating):
        told = gradient(calibrating, parameters, factors)
        precision = precision + told.T @ told / ROW_NOISE**2
    slope = gradient(problem, parameters, factors)
    left = np.einsum("nf,fg,ng->n", slope, np.linalg.inv(precision), slope)
    return np.asarray(np.sqrt(left + ROW_NOISE**2), np.float64)
