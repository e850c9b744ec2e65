"""Published figures of the systems of several devices, beside what a run of them simulated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.formatting import is_known, number
from sim.report.rows import DASH
from sim.results.json_files import read_json
from sim.results.run_files import finished_runs, is_system
from traces.text import printable, short_name


@dataclass(frozen=True, slots=True)
class Claim:
    """A published figure: the metric that answers it, and the settings for which it was published.

    `value`: a number, or a range (low, high); `scale`: factor from the metric to the published unit; `note`: FITTED
    where a constant of the model was fitted to this very figure, which then proves nothing.
    """

    name: str
    metric: str
    value: float | tuple[float, float]
    scale: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


SHADOW = {"model": "mixtral_8x7b", "prediction": "shadow"}
ALIGNED = SHADOW | {"token_period": 1, "kv_period": 1}
FOUR = ALIGNED | {"workload": "published", "prompt_tokens": None}
ABLATION = {"prompt_tokens": 64, "new_tokens": 513, "model": "mixtral_8x7b"}
SOURCES = {"od_moe": "arXiv 2512.03927", "expert_streaming": "arXiv 2603.27624 (abstract)"}
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "od_moe": (
        Claim("decode, tokens/s, mean of four settings", "tokens_per_s", 3.69, settings=FOUR),
        Claim("output, tokens/s, time to first token included", "output_tokens_per_s", 3.37, settings=FOUR),
        Claim("TTFT, ms", "ttft_s.mean", 2244.0, 1e3, FOUR),
        *(
            Claim(f"decode, tokens/s, {p} in, {n} out", "tokens_per_s", rate,
                  settings=ALIGNED | {"prompt_tokens": p, "new_tokens": n})
            for (p, n), rate in {(16, 64): 3.67, (16, 256): 3.65, (128, 64): 3.74, (128, 256): 3.71}.items()
        ),
        *(
            Claim(f"ablation, tokens/s, {name}", "tokens_per_s", rate, settings=ABLATION | settings, note=note)
            for name, rate, settings, note in (
                ("token and KV aligned", 3.616, {"prediction": "shadow", "token_period": 1, "kv_period": 1}, ""),
                ("token aligned", 3.453, {"prediction": "shadow", "token_period": 1, "kv_period": 0}, "FITTED"),
                ("KV aligned", 2.445, {"prediction": "shadow", "token_period": 0, "kv_period": 1}, "FITTED"),
                ("no alignment", 1.185, {"prediction": "shadow", "token_period": 0, "kv_period": 0}, ""),
                ("random prefetch", 1.046, {"prediction": "random"}, ""),
                ("load after routing", 1.032, {"prediction": "none"}, "FITTED"),
            )
        ),
        Claim("GPU memory of all nodes, GB", "gpu_memory_bytes", 60.0, 1e-9, {"model": "mixtral_8x7b"}),
        Claim("all experts on GPUs, tokens/s", "all_gpu.tokens_per_s", 4.89, 1.0, {"model": "mixtral_8x7b"}, "FITTED"),
        Claim("all experts on GPUs, GPU memory, GB", "all_gpu.gpu_memory_bytes", 180.0, 1e-9,
              {"model": "mixtral_8x7b"}),
    ),
    "expert_streaming": (
        Claim("speed-up over the best of the paper's baselines", "speedup", (1.22, 2.0),
              note="only expert parallelism is simulated"),
        Claim("on-chip memory saved, %", "sram_saved", (0.0, 78.8), 100.0, note="published: up to 78.8 %"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One published figure beside ours, as texts."""

    name: str
    published: str
    simulated: str
    error: str
    note: str


@dataclass(frozen=True, slots=True)
class SystemRun:
    """One run of a system: its folder, what stands in its provenance, and its lines."""

    folder: Path
    system: str
    label: str
    source: str
    lines: tuple[Line, ...]
    metrics: tuple[tuple[str, str], ...]
    estimated: tuple[str, ...]
    fitted: tuple[str, ...]


def system_runs(folder: Path) -> list[SystemRun]:
    """The runs of `system=...` in a folder, with what is published of them."""
    return [
        _system_run(run, read_json(run / "provenance.json"), read_json(run / "metrics.json"))
        for run in finished_runs(folder)
        if is_system(run)
    ]


def _system_run(run: Path, provenance: Mapping[str, Any], metrics: Mapping[str, Any]) -> SystemRun:
    system = short_name(provenance["system"])
    return SystemRun(
        run,
        system,
        short_name(provenance.get("label")),
        SOURCES.get(system, "nothing"),
        tuple(lines(system, provenance.get("config") or {}, metrics)),
        tuple((short_name(name), format_value(value)) for name, value in metrics.items() if is_known(value)),
        tuple(printable(str(one)) for one in provenance.get("estimated") or ()),
        tuple(printable(str(one)) for one in provenance.get("fitted") or ()),
    )


def lines(system: str, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[Line]:
    """The claims that were published for these settings, beside the metrics of a run."""
    for claim in CLAIMS.get(system, ()):
        if any(config.get(name) != value for name, value in claim.settings.items()):
            continue
        ours = metrics.get(claim.metric)
        value = float(ours) * claim.scale if is_known(ours) else None
        yield Line(claim.name, *_beside(claim.value, value), claim.note)


def _beside(published: float | tuple[float, float], ours: float | None) -> tuple[str, str, str]:
    """Published, simulated and error as texts."""
    simulated = DASH if ours is None else format_value(ours)
    if isinstance(published, tuple):
        inside = ours is not None and published[0] <= ours <= published[1]
        word = DASH if ours is None else "within the range" if inside else "outside the range"
        return f"{published[0]:g} to {published[1]:g}", simulated, word
    error = DASH if ours is None else f"{100 * (ours / published - 1):+.1f} %"
    return f"{published:g}", simulated, error


def format_value(value: float) -> str:
    return number(value, ".4g" if abs(value) < 1e6 else ".4e")
