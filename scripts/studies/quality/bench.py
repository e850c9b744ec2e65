"""Closed-loop cases for the quality studies: one policy in one trained demo model, finished ones kept on disk.

A case gives, window by window, the measures of ``sim.quality.measures`` (MEASURED) and the times of the same decisions
on the modelled machine (SIMULATED). Cases of one seed share text, logits of the untouched model and what rules learn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policies.base import Policy
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.quality.calibration import record_windows
from sim.quality.intervals import DRAWS
from sim.quality.loop import Variant
from sim.quality.measures import per_token
from sim.quality.parallel import parallel, plain_logits
from sim.quality.settings import ClozeConfig, GenerationConfig, QualityConfig
from sim.quality.store import Store
from sim.quality.study import DEMO_SIZES, Study, make_study
from sim.quality.windows import Windows, make_windows
from sim.results.json_files import write_json
from sim.results.outputs import versions
from traces.demo.cache import demo_model
from traces.demo.recipe import named_recipe
from traces.recording.loading import LoadedModel, load_model
from traces.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[3]
RESULTS, FIGURES = ROOT / "docs" / "results", ROOT / "docs" / "figures"
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


@dataclass
class Outcome:
    """Sums of a case by document: columns of ``COLUMNS`` below [B, C]."""

    case: Case
    sums: NDArray[np.float64]

    def value(self, name: str, draws: NDArray[np.int64] | None = None) -> Any:
        """A statistic of all documents, or of drawn ones [D, B] -> [D]."""
        sums = self.sums.sum(axis=0) if draws is None else draws @ self.sums
        return STATISTICS[name](sums)


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


STATISTICS: dict[str, Callable[[NDArray[np.float64]], Any]] = {
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


def draws_of(blocks: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.int64]:
    """How often each document is drawn, [draws, blocks]: the same for every case, so that differences are paired."""
    return np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), draws)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


class Bench:
    """The demo model of one training seed with its text; runs cases."""

    def __init__(self, seed: int, windows: int, tokens: int, text_seed: int, folder: Path) -> None:
        self.seed = seed
        self.settings = QualityConfig(windows=windows, tokens=tokens, text_seed=text_seed, fit_windows=FIT_WINDOWS)
        self.store = Store(folder)

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(str(demo_model(named_recipe("demo", self.seed))), "float32")

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
        return f"{self.settings.windows} {self.settings.tokens} {self.settings.text_seed}"

    def study(self, policy: Policy, fraction: float, mode: str = "auto") -> Study:
        """The evaluation of a policy."""
        return make_study(
            self.loaded, policy, load_hardware(HARDWARE), replace(self.settings, mode=mode),
            CacheConfig(fraction=fraction, reset="request"), cloze=ClozeConfig(items=0),
            generation=GenerationConfig(windows=0), windows=self.text, default_sizes=DEMO_SIZES, recorded=self.recorded,
        )  # fmt: skip

    def run(self, case: Case) -> Outcome:
        """A case, from disk where it has finished."""
        key = case.key(self.name)
        found = self.store.get(key)
        if found is None:
            found = {"windows": self._windows(case)}
            self.store.put(key, found)
        documents, index = np.unique(np.array(self.documents()), return_inverse=True)
        sums = np.zeros((len(documents), len(COLUMNS)))
        np.add.at(sums, index, found["windows"])
        return Outcome(case, sums)

    def documents(self) -> list[str]:
        """Names of the windows' documents, kept on disk too."""
        key = f"documents_{self.seed}_{self.name.replace(' ', '_')}"
        found = self.store.get(key)
        if found is None:
            found = {"names": np.array(self.windows.documents)}
            self.store.put(key, found)
        return [str(name) for name in found["names"]]

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


def arguments(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """What every study takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=defaults.get("windows", 24), help="windows of text (default 24)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a window (default 256)")
    parser.add_argument("--text-seed", type=int, default=0, help="chooses the windows (default 0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=defaults.get("seeds", [0]), help="training seeds")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "quality_study", help="finished cases")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tables are written")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="where figures are written")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    return parser


def bench_of(given: argparse.Namespace, seed: int) -> Bench:
    """The bench of one training seed as the command line says."""
    torch.set_num_threads(given.threads)
    return Bench(seed, given.windows, given.tokens, given.text_seed, given.folder)


def write_results(path: Path, given: argparse.Namespace, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """A table as JSON with where it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {name: getattr(given, name) for name in ("windows", "tokens", "text_seed", "seeds")}
    about = {
        "label": {"quality": "MEASURED", "times": f"SIMULATED on {HARDWARE} with the sizes of {DEMO_SIZES}"},
        "interval": f"95 %, paired bootstrap over documents, {DRAWS} draws",
        "settings": facts,
        "versions": versions() | {"torch": torch.__version__},
    }
    write_json(path, about | more | {"rows": list(rows)})


def save_figure(figure: Any, folder: Path, name: str) -> None:
    """A figure as PDF and PNG."""
    import io

    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("pdf", "png"):
        buffer = io.BytesIO()
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
        write_whole(folder / f"{name}.{kind}", buffer.getvalue())
