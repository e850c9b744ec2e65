"""Fits a step's two constants, base and cost per miss, on calibrating runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.validation.published.mixtral_offloading.table import PublishedRun, generated_tokens

CALIBRATE_ON = (("lru", 4), ("random", 6))
"""(rule, experts offloaded per layer) of the runs that calibrate a GPU."""
Case = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Workload:
    """What one run did: prefill steps, decode steps, and the seconds it took."""

    case: Case
    prefills: int
    decodes: int
    total_s: float

    def copies(self, prefill: float, decode: float) -> float:
        """Experts copied in all, from the mean copies of a prefill and of a decode step."""
        return self.prefills * prefill + self.decodes * decode


@dataclass(frozen=True, slots=True)
class Constants:
    """Seconds of a step without a miss, and of one miss."""

    base_s: float
    copy_s: float


def workloads(runs: Sequence[PublishedRun]) -> list[Workload]:
    """A prefill per prompt gives the first token of its answer, a decode step each of the others."""
    works = []
    for run, generated in zip(runs, generated_tokens(runs), strict=True):
        prompts = run.num_prompts
        works.append(Workload((run.strategy, run.offloaded), prompts, generated - prompts, run.total_s))
    return works


def fit(works: Sequence[Workload], copies: Sequence[float]) -> Constants | None:
    """The two constants from two calibrations; runs of equal setting are pooled. None where they come out negative."""
    steps_and_copies = np.zeros((2, 2))
    seconds = np.zeros(2)
    for work, count in zip(works, copies, strict=True):
        row = CALIBRATE_ON.index(work.case)
        steps_and_copies[row] += work.prefills + work.decodes, count
        seconds[row] += work.total_s
    if abs(np.linalg.det(steps_and_copies)) < 1e-9 * np.prod(steps_and_copies[:, 0]):
        return None
    base_s, copy_s = np.linalg.solve(steps_and_copies, seconds)
    return Constants(float(base_s), float(copy_s)) if base_s > 0 and copy_s > 0 else None
