"""From samples to the figures of hardware and runtime, each with its spread and what was dropped."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.calibrate.fits import fit_costs, line
from sim.calibrate.in_situ import simulated_ns
from sim.calibrate.measure import STAGING_SLOTS, Measured, neutral_machine
from sim.calibrate.samples import Estimate, Gated, estimate, gate
from sim.machine.figures import LABELS, Figures, parameters_of
from sim.machine.machine import Machine

MOST_TOKENS = 64.0
COUNTS = (
    "gpu_memory_bytes",
    "kernels_per_expert",
    "kernels_per_layer",
    "staging_slots",
    "copies_per_expert",
    "cpu_cores",
)
F = TypeVar("F", bound=Figures)
STEP_S = 5e-6
"""By which the fitted costs are varied."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A measured parameter: ``name`` in a file of hardware or runtime, or a description where no file holds it.

    ``error``: relative standard error; NaN: unknown. ``std``: of single samples, relative.
    """

    name: str
    value: float
    label: str
    how: str
    std: float = np.nan
    error: float = np.nan
    count: int = 0
    dropped: int = 0
    quiet: bool = True
    in_file: bool = True


class Parameters:
    """All parameters of a calibration, in the order in which each needs those before it."""

    def __init__(self, measured: Measured) -> None:
        self.measured, self.settings = measured, measured.settings
        self.by_name: dict[str, Parameter] = {}
        self.expert_bytes = float(self.settings.expert_bytes)
        self.weights = self.expert_bytes / self.settings.item_bytes
        self.threads = measured.cpu_threads
        self._memory()
        self._link()
        self._experts()
        self._cpu()
        self._contention()
        self._overheads()
        self.residuals = self._costs_of_the_runtime()

    def gated(self, kind: str) -> Gated:
        return gate(self.measured.samples, kind, self.measured.config.max_disturbance)

    def _add(self, parameter: Parameter) -> None:
        self.by_name[parameter.name] = parameter

    def _add_mean(
        self, name: str, value: float, how: str, mean: Estimate, gated: Gated, label: str = "MEASURED", shift: float = 0
    ) -> None:
        """A parameter that rests on the mean of some times, less a ``shift`` that is known."""
        base = max(mean.mean - shift, 1e-12)
        self._add_fitted(name, value, how, mean.error / base, mean.count, gated, label, mean.std / base)

    def _add_fitted(
        self, name: str, value: float, how: str, error: float, count: int, gated: Gated, label: str = "MEASURED",
        std: float = np.nan,
    ) -> None:  # fmt: skip
        self._add(Parameter(name, value, label, how, std, error, count, gated.dropped, gated.quiet))

    def _add_known(self, name: str, value: float, how: str, label: str = "MEASURED") -> None:
        self._add(Parameter(name, value, label, how))

    def _memory(self) -> None:
        self._add_known("gpu_memory_bytes", float(memory_bytes(self.settings.device)), "as the system states it")

    def _link(self) -> None:
        """Latency from copies of several sizes, rate from the copies of the runtime's own run."""
        label = self.settings.label
        copies, misses = self.gated("copy"), self.gated("misses")
        fitted = line(copies.values("bytes"), copies.values("seconds"))
        error = fitted.intercept_error / fitted.intercept if fitted.intercept else np.nan
        how = "intercept of copies of several sizes"
        self._add_fitted("link_latency_s", fitted.intercept, how, error, len(copies.kept), copies, label)
        copy_s = misses.mean("copy_s")
        rate = self.expert_bytes / max(copy_s.mean - fitted.intercept, 1e-9)
        how = "copies of whole experts in a run that mostly misses, less the latency"
        self._add_mean("link_bytes_per_s", rate, how, copy_s, misses, label, fitted.intercept)
        pageable = self.gated("pageable")
        fitted = line(pageable.values("bytes"), pageable.values("seconds"))
        cuda = self.settings.device == "cuda"
        name = "pageable_bytes_per_s" if cuda else "staging_bytes_per_s"
        how = "copies of several sizes from pageable memory" + ("" if cuda else ", not paced")
        error = fitted.slope_error / fitted.slope
        self._add_fitted(name, 1.0 / fitted.slope, how, error, len(pageable.kept), pageable)
        if cuda:
            self._add_known("pageable_latency_s", fitted.intercept, "intercept of the same copies")

    def _experts(self) -> None:
        """Launch from experts of several sizes, memory rate from the runtime's own run, arithmetic from many tokens."""
        alone, hits = self.gated("expert"), self.gated("hits")
        tokens, seconds = alone.values("tokens"), alone.values("seconds")
        single, many = tokens == 1, tokens == MOST_TOKENS
        fitted = line(alone.values("bytes")[single], seconds[single])
        launch_s = fitted.intercept
        error = fitted.intercept_error / launch_s if launch_s else np.nan
        self._add_known("kernels_per_expert", 1.0, "all launches of an expert count as one")
        how = "intercept of experts of several sizes"
        self._add_fitted("launch_s", launch_s, how, error, int(single.sum()), alone)
        expert_s = hits.mean("expert_s")
        rate = self.expert_bytes / max(expert_s.mean - launch_s, 1e-9)
        how = "weights of an expert on one token in a run that mostly hits, less a launch"
        self._add_mean("gpu_memory_bytes_per_s", rate, how, expert_s, hits, shift=launch_s)
        expert_s = estimate(seconds[many], alone.rounds("seconds")[many])
        rate = 2.0 * self.weights * MOST_TOKENS / max(expert_s.mean - launch_s, 1e-9)
        self._add_mean(
            "gpu_flops_per_s", rate, f"an expert on {MOST_TOKENS:.0f} tokens", expert_s, alone, shift=launch_s
        )
        attention = hits.mean("attention_s")
        self._add(
            Parameter(
                "attention of a layer, s", attention.mean, "MEASURED", "dense matrix in place of attention, in situ",
                attention.std / attention.mean, attention.error / attention.mean, attention.count, hits.dropped,
                hits.quiet, in_file=False,
            )
        )  # fmt: skip

    def _cpu(self) -> None:
        gated = self.gated("cpu")
        tokens, seconds, rounds = gated.values("tokens"), gated.values("seconds"), gated.rounds("seconds")
        for name, count, amount in (
            ("cpu_memory_bytes_per_s", 1.0, self.expert_bytes),
            ("cpu_core_flops_per_s", MOST_TOKENS, 2.0 * self.weights * MOST_TOKENS / self.threads),
        ):
            expert_s = estimate(seconds[tokens == count], rounds[tokens == count])
            how = f"an expert on {self.threads} threads of the CPU on {count:.0f} tokens while the device computes"
            self._add_mean(name, amount / expert_s.mean, how, expert_s, gated)
        self._add_known("cpu_cores", float(self.threads), "the threads that computed the experts")

    def _contention(self) -> None:
        """Ratios of times beside each other and alone, at least 1."""
        cpu, copies = self.gated("cpu"), self.gated("copy")
        alone = cpu.values("seconds")[cpu.values("tokens") == 1]
        whole = copies.values("seconds")[copies.values("bytes") == copies.values("bytes").max()]
        for name, kind, base, label in (
            ("cpu_contention", "cpu_beside_copy", alone, "MEASURED"),
            ("link_contention", "copy_beside_cpu", whole, self.settings.label),
        ):
            gated = self.gated(kind)
            beside = gated.mean("seconds")
            ratio = max(1.0, beside.mean / float(base.mean()))
            self._add_mean(name, ratio, "beside each other / alone", beside, gated, label)

    def _overheads(self) -> None:
        decision, readback = self.gated("decision"), self.gated("readback")
        layer_s, readback_s = decision.mean("seconds"), readback.mean("seconds")
        how = "decisions of lru, driven from Python"
        self._add_mean("decision_s_per_layer", layer_s.mean, how, layer_s, decision)
        value = 0.0 if self.settings.device == "cpu" else readback_s.mean
        self._add_mean("readback_s", value, "the router's choice to the host", readback_s, readback)
        for name in ("kernels_per_layer", "link_half_bytes", "sync_s"):
            self._add_known(name, 0.0, "contained in host_s_per_layer, or in the latency of the link", "FITTED")
        self._add_known("staging_slots", float(STAGING_SLOTS), "of the calibrating runs")
        self._add_known("copies_per_expert", 1.0, "an expert lies in one piece")

    def _costs_of_the_runtime(self) -> NDArray[np.float64]:
        """Bookkeeping per layer and cost per demand copy, so that simulated steps last as long as executed ones."""
        runs = {name: self.gated(name) for name in self.measured.replays}
        kept = [id(sample) for gated in runs.values() for sample in gated.kept]
        portions = [portion for portion in self.measured.portions if id(portion.sample) in kept]
        took_s = np.array([portion.latency_ns.mean() for portion in portions]) * 1e-9
        machine = self.machine("calibrating", {})

        def predict(costs: NDArray[np.float64]) -> NDArray[np.float64]:
            trial = machine.with_figures({"host_s_per_layer": float(costs[0]), "link_call_s": float(costs[1])})
            steps = {name: simulated_ns(replay, trial) for name, replay in self.measured.replays.items()}
            return np.array([steps[portion.probe][portion.steps].mean() for portion in portions]) * 1e-9

        costs, errors, residuals = fit_costs(predict, took_s, np.zeros(2), np.full(2, STEP_S))
        dropped, quiet = sum(g.dropped for g in runs.values()), all(g.quiet for g in runs.values())
        terms = {
            "host_s_per_layer": "what a layer takes beside all other terms",
            "link_call_s": "what a demand copy costs the computation beside it: issue, contention",
        }
        for (name, how), value, error in zip(terms.items(), costs, errors, strict=True):
            relative = error / value if value > 0 else np.nan
            self._add(
                Parameter(name, float(value), "FITTED", f"{how}; least squares over steps of two runs", np.nan,
                       float(relative), len(portions), dropped, quiet)
            )  # fmt: skip
        return residuals

    def machine(self, name: str, sources: dict[str, str]) -> Machine:
        """Hardware and runtime that the parameters found so far describe."""
        found = {f.name: f for f in self.by_name.values() if f.in_file}
        base = neutral_machine(self.settings).with_figures(
            {f.name: int(f.value) if f.name in COUNTS else f.value for f in found.values()}
        )

        def described(file: F) -> F:
            own = {name: f for name, f in found.items() if name in parameters_of(type(file))}
            label = max((f.label for f in own.values()), key=LABELS.index, default="ESTIMATED")
            errors = {k: float(f"{f.error:.4g}") for k, f in own.items() if np.isfinite(f.error) and f.value}
            stated = {key: text for key, text in sources.items() if key in own}
            return replace(file, name=name, label=label, sources=stated, uncertainty=errors)

        return Machine(described(base.hardware), described(base.runtime))


def memory_bytes(device: str) -> int:
    """Bytes of the device's memory."""
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
