"""Closed-loop cases of the quality studies: one policy in one trained demo model, finished ones kept on disk.

A case gives, window by window, the measures of ``sim.quality.measures`` (MEASURED) and the times of the same decisions
on the modelled machine (SIMULATED). Cases of one seed share text, logits of the untouched model and what rules learn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.base import Policy
from sim.assembly.replay import DeviceSetup
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.quality.calibration import record_windows
from sim.quality.intervals import DRAWS
from sim.quality.loop import Variant
from sim.quality.measures import per_token
from sim.quality.parallel import parallel, plain_logits
from sim.quality.settings import QualityConfig, StudyConfig
from sim.quality.store import Arrays, Store
from sim.quality.study import DEMO_SIZES, Study, make_study
from sim.quality.windows import Windows, make_windows
from sim.statistics.bootstrap import Estimate, Statistic, drawn_sums, estimate
from traces.demo.cache import demo_model
from traces.demo.recipe import Recipe, named_recipe
from traces.recording.loading import LoadedModel, load_model

FIT_WINDOWS = 16
BATCH = 4
HARDWARE = "s1_rtx3080ti"
REVISION = 1
"""Raised when stored cases mean something else."""


@dataclass(frozen=True)
class Case:
    """A policy at a capacity in the demo model of one training seed."""

    label: str
    knob: float
    policy: Policy
    seed: int = 0
    fraction: float = 0.25
    variant: Variant = field(default_factory=lambda: Variant("policy"))

    def key(self, text: str) -> str:
        """Names everything that decides the result."""
        parts = [f"{type(part).__name__} {sorted(asdict(part).items())}" for part in self.policy.parts()]
        facts = [REVISION, self.seed, self.fraction, asdict(self.variant), parts, text]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]


COLUMNS = (
    "nll_base", "nll", "kl", "agree", "correct_base", "correct", "predictions",
    "latency_ns", "steps", "hits", "demanded", "resident_executed", "executed", "substituted_ranks", "dropped_ranks",
    "routed_ranks", "copied_bytes",
)  # fmt: skip
COUNTED = COLUMNS[COLUMNS.index("hits") :]


def column(sums: NDArray[np.float64], name: str) -> Any:
    return sums[..., COLUMNS.index(name)]


def share(part: str, whole: str) -> Callable[[NDArray[np.float64]], Any]:
    return lambda sums: column(sums, part) / column(sums, whole)


QUALITY = ("perplexity_change", "kl", "top1_agreement", "accuracy_change")
STATISTICS: dict[str, Statistic] = {
    "perplexity_change": lambda s: np.expm1((column(s, "nll") - column(s, "nll_base")) / column(s, "predictions")),
    "kl": share("kl", "predictions"),
    "top1_agreement": share("agree", "predictions"),
    "accuracy_change": lambda s: (column(s, "correct") - column(s, "correct_base")) / column(s, "predictions"),
    "tpot_s": lambda s: column(s, "latency_ns") / column(s, "steps") / 1e9,
    "hit_rate": share("hits", "demanded"),
    "cache_ratio": share("resident_executed", "executed"),
    "substitution_rate": share("substituted_ranks", "routed_ranks"),
    "drop_rate": share("dropped_ranks", "routed_ranks"),
    "bytes_per_token": share("copied_bytes", "steps"),
}


def with_interval(name: str, found: Estimate) -> dict[str, float]:
    """A row's entries `name`, `name`.low and `name`.high."""
    return {name: found.value, f"{name}.low": found.low, f"{name}.high": found.high}


@dataclass
class Outcome:
    """Sums of a case by document: columns of ``COLUMNS`` [B, C]."""

    case: Case
    sums: NDArray[np.float64]

    def value(self, name: str) -> float:
        """A statistic of all documents."""
        return float(STATISTICS[name](self.sums.sum(axis=0)))

    def drawn(self, name: str) -> NDArray[np.float64]:
        """The statistic of every draw of documents, [D]; the same draws for every case, so differences are paired."""
        return np.asarray(STATISTICS[name](drawn_sums(self.sums, DRAWS)))

    def row(self, names: Iterable[str]) -> dict[str, float]:
        """Statistics with their intervals."""
        row: dict[str, float] = {}
        for name in names:
            row |= with_interval(name, estimate(self.sums, STATISTICS[name], DRAWS))
        return row

    def over(self, reference: Outcome, names: Iterable[str], prefix: str) -> dict[str, float]:
        """Differences from another case with their paired intervals."""
        row: dict[str, float] = {}
        both, columns = np.concatenate([self.sums, reference.sums], axis=1), self.sums.shape[1]
        for name in names:
            row |= with_interval(f"{prefix}.{name}", estimate(both, gap_of(STATISTICS[name], columns), DRAWS))
        return row


def gap_of(statistic: Statistic, columns: int) -> Statistic:
    """The statistic of the first columns minus that of the rest."""
    return lambda sums: statistic(sums[..., :columns]) - statistic(sums[..., columns:])


def sums_by(documents: Iterable[str], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [N, ...] of windows added up by document [B, ...]."""
    names, index = np.unique(np.array(list(documents)), return_inverse=True)
    sums = np.zeros((len(names), *rows.shape[1:]))
    np.add.at(sums, index, rows)
    return sums


class Bench:
    """The demo model of one training seed, or another recipe's, with its text; runs cases."""

    def __init__(
        self, seed: int, windows: int, tokens: int, text_seed: int, folder: Path, recipe: Recipe | None = None
    ) -> None:
        self.seed, self.recipe = seed, recipe or named_recipe("demo", seed)
        self.other = "" if recipe is None else f" {recipe.name}-{recipe.key}"
        self.settings = QualityConfig(windows=windows, tokens=tokens, text_seed=text_seed, fit_windows=FIT_WINDOWS)
        self.store = Store(folder)

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(str(demo_model(self.recipe)), "float32")

    @cached_property
    def text(self) -> Windows:
        settings = self.settings
        count = settings.windows + FIT_WINDOWS
        return make_windows("builtin", self.loaded.tokenizer, count, settings.tokens, settings.text_seed)

    @cached_property
    def windows(self) -> Windows:
        return self.text.part(0, self.settings.windows)

    @cached_property
    def recorded(self) -> tuple[Any, Any]:
        return record_windows(self.loaded, self.text.part(self.settings.windows, len(self.text)), True, 0)

    @cached_property
    def base(self) -> list[torch.Tensor]:
        """Logits of the untouched model, batch by batch."""
        tokens = self.windows.tokens
        return [plain_logits(self.loaded.model, tokens[i : i + BATCH]) for i in range(0, len(tokens), BATCH)]

    @property
    def name(self) -> str:
        return f"{self.settings.windows} {self.settings.tokens} {self.settings.text_seed}{self.other}"

    def study(self, policy: Policy, fraction: float, mode: str = "auto") -> Study:
        """The evaluation of a policy."""
        setup = DeviceSetup(policy, Machine(load_hardware(HARDWARE)), CacheConfig(fraction=fraction, reset="request"))
        config = StudyConfig.windows_only(replace(self.settings, mode=mode))
        return make_study(self.loaded, setup, config, self.text, DEMO_SIZES, self.recorded)

    def run(self, case: Case) -> Outcome:
        """A case, from disk where it has finished."""
        windows = self.stored(case.key(self.name), lambda: {"windows": self._windows(case)})["windows"]
        return Outcome(case, sums_by(self.documents(), windows))

    def stored(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """What the store holds under a key, made and kept where it holds nothing."""
        arrays = self.store.get(key)
        if arrays is None:
            arrays = make()
            self.store.put(key, arrays)
        return arrays

    def documents(self) -> list[str]:
        """Names of the windows' documents, kept on disk too."""
        key = f"documents_{self.seed}_{self.name.replace(' ', '_')}"
        return [str(name) for name in self.stored(key, lambda: {"names": np.array(self.windows.documents)})["names"]]

    def _windows(self, case: Case) -> NDArray[np.float64]:
        """[N, COLUMNS] sums of each window."""
        study, rows = self.study(case.policy, case.fraction), []
        plain = replace(case.variant, stand_in=0, layer=None)
        for batch, base in enumerate(self.base):
            first = batch * BATCH
            tokens = self.windows.tokens[first : first + BATCH]
            for window, one, logits in zip(
                tokens, parallel(study.loop, tokens, case.variant, first), base, strict=True
            ):
                measures = per_token(logits, one.logits, window)
                timing = one.timing
                if timing is None and plain == case.variant:
                    raise ValueError("a policy's own pass has times")
                latency = [0.0, 0.0] if timing is None else [timing.latency_ns.sum(), len(timing.latency_ns)]
                counts = np.zeros(len(COUNTERS)) if timing is None else timing.counts.sum(axis=0)
                counted = [float(counts[COUNTERS.index(name)]) for name in COUNTED]
                rows.append([*measures.sum(axis=0).tolist(), len(measures), *latency, *counted])
        return np.array(rows, np.float64)
