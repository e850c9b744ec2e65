"""Seconds of a plan whose layers miss differently, and what its time is waited for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.forecast.shipped import open_problem, shares_of
from sim.validation.published.corpus.estimate import CLASSES, FACTORS, ROW_NOISE, Problem, Vector, gradient, seconds
from sim.validation.published.corpus.rule import Setting

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
