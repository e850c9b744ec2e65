"""Published series whose experts lie in several tiers: what was measured, and how each is simulated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STORAGE = "storage"
"""Name of a fitted figure: a factor on every rate of the machine's table."""


@dataclass(frozen=True, slots=True)
class Point:
    """A published speed and its place on the axis of the series."""

    label: str
    measured: float
    """Tokens per second."""
    slots: float
    """Share of the experts of a layer that have slots on the GPU; 0: none, whatever the policy."""
    calibrates: bool = False
    host_share: float | None = None
    """Share of all experts that lie in host memory; None: all."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one machine; ``fits`` are figures that its calibrating points decide, as many as these."""

    name: str
    source: str
    model: str
    """As a row of docs/validation/corpus/models.csv names it."""
    quantisation: str
    card: str
    hardware: str
    runtime: str
    policy: str
    points: tuple[Point, ...]
    fits: tuple[str, ...] = ()
    fitted_on: str = ""
    """Another series of the machine, whose figures this one begins with."""
    host_layers: int | None = None
    """Layers whose experts are not in GPU memory for good; None: all."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Of the machine, where they differ from its files."""
    said: str = ""


SERIES = (
    Series(
        "boyle_flashnext", "PyPI boyle 0.2.1 README", "Qwen3.8-Flash-Next", "4bit (111.5 GB)",
        "qwen3_5_397b_a17b_published", "m5_max", "mlx_ssd", "mlx_ssd",
        (
            Point("88 GB, 100 %", 16.4, 1.0, calibrates=True),
            Point("64 GB, 70 %", 18.1, 0.70),
            Point("48 GB, 49 %", 18.1, 0.49),
            Point("40 GB, 38 %", 17.8, 0.38),
            Point("32 GB, 27 %", 16.5, 0.27),
            Point("24 GB, 17 %", 11.8, 0.17, calibrates=True),
        ),
        fits=("readback_s", STORAGE),
        said="its first point is slower than the next two with fewer experts resident, which no count of bytes "
        "explains",
    ),
    Series(
        "boyle_235b", "PyPI boyle 0.2.1 README", "Qwen3-235B-A22B", "4bit (132 GB)",
        "qwen3_235b_a22b_published", "m5_max", "mlx_ssd", "mlx_ssd",
        # 132 GB of which 235.1 B - 94 * 128 * 3 * 4096 * 1536 weights, 3.4 %, are no experts
        (Point("70 GB", 11.7, (70 - 4.4) / 127.6), Point("90 GB", 15.5, (90 - 4.4) / 127.6, calibrates=True)),
        fits=("readback_s",),
        fitted_on="boyle_flashnext",
    ),
    Series(
        "imp_1374", "github kekzl/imp issue 1374", "Qwen3-30B-A3B", "Q4_K_M",
        "qwen3_30b_a3b_phone", "rtx5090", "imp_2026_08", "lru",
        # slots hold one of the three matrices of an expert
        (
            Point("24 slots", 10.51, 24 / 3 / 128, calibrates=True),
            Point("73 slots", 20.99, 73 / 3 / 128),
            Point("146 slots", 30.51, 146 / 3 / 128),
            Point("244 slots", 51.86, 244 / 3 / 128, calibrates=True),
        ),
        fits=("pageable_bytes_per_s", "launch_s"),
    ),
    Series(
        "llama_cpp_27861", "github ggml-org/llama.cpp pull request 27861", "Qwen3.8-Flash-Next", "UD-Q4_K_XL",
        "qwen3_5_397b_a17b_published", "rtx3090_epyc7343", "llama_cpp_moe_cache", "llama_cpp_moe_cache",
        (Point("no cache", 18.4, 0.0, calibrates=True), Point("48 slots, 2 uploads", 24.2, 48 / 512)),
        fits=("cpu_memory_bytes_per_s",),
        host_layers=28,
        said="two cards, layers split, which at one token run by turns: simulated as one; its author counts 67 % hits "
        "of an LRU of 64 slots, 81 % of 128, more than the card's",
    ),
    Series(
        "llama_cpp_27861_6950xt", "github ggml-org/llama.cpp pull request 27861", "Qwen3.8-Flash-Next", "UD-Q2_K_XL",
        "qwen3_5_397b_a17b_published", "rtx3090_epyc7343", "llama_cpp_moe_cache", "llama_cpp_moe_cache",
        (
            Point("no cache", 8.2, 0.0, calibrates=True),
            Point("128 slots", 12.5, 128 / 512),
            Point("256 slots", 17.6, 256 / 512),
            Point("280 slots", 19.0, 280 / 512, calibrates=True),
        ),
        fits=("cpu_memory_bytes_per_s", "graph_launch_s"),
        figures={"gpu_memory_bytes_per_s": 576e9, "link_bytes_per_s": 6.5e9},
        said="two RX 6950 XT on four lanes each, layers split, which at one token run by turns: simulated as one; it "
        "states 85, 92 and 93 % hits",
    ),
    Series(
        "ds4_gb10", "antirez/ds4, CUDA on a GB10", "DeepSeek-V4-Flash", "mxfp4",
        "qwen3_5_397b_a17b_published", "m5_max", "mlx_ssd", "mlx_ssd",
        (Point("no cache", 1.03, 0.0, calibrates=True), Point("100 GB, 81 % hits", 2.96, 100 / 149)),
        fits=(STORAGE,),
        figures={"gpu_memory_bytes_per_s": 273e9, "readback_s": 50e-6},
    ),
    Series(
        "colibri_1091", "github JustVugg/colibri issue 1091", "GLM-5", "int4",
        "qwen3_5_397b_a17b_published", "desktop_nvme", "llama_cpp", "ssd_cpu",
        (
            Point("8 experts a layer in memory, 38.1 % hits", 0.89, 0.0, True, 8 / 256),
            Point("10, 41.0 %", 0.91, 0.0, False, 10 / 256),
            Point("13, 45.1 %", 0.78, 0.0, False, 13 / 256),
        ),
        fits=(STORAGE,),
        said="experts on the CPU, host memory as the cache; the pinned ones and those in GPU memory are left out; its "
        "last point is slower with more hits",
    ),
)  # fmt: skip
