"""A machine from a file of `conf/hardware` or a yaml of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sim.forecast.machines import ForecastMachine
from sim.machine.hardware import Hardware
from sim.machine.storage import READAHEAD_BYTES, rate_at
from sim.validation.published.corpus.parts import STATED, Part, Rates, shipped_parts
from sim.validation.published.corpus.parts import find_part as find
from traces.errors import UserError

NO_GPU_BYTES = 2**28
"""A hardware file with less memory than this has no GPU: the CPU plays the device in it."""
DEFAULT_SPREAD = {"gpu": 0.05, "ram": 0.35, "link": 0.25}
"""Relative spread of a figure of a hardware file that states none."""


def of_file(file: Hardware, words: str, shares: Mapping[str, float]) -> ForecastMachine:
    """From a hardware file, whose rates of DRAM and link are what software reaches, not what a datasheet says.

    Raises: UserError for a file of `calibrate` in which the CPU plays the GPU.
    """
    if file.sources.get("link_bytes_per_s", "").startswith("EMULATED"):
        raise UserError(f"hardware={words}: its link is EMULATED, and the CPU plays the GPU: take hardware=here")
    told = " | ".join(
        (
            *(file.sources.get(name, "") for name in ("cpu_cores", "cpu_core_flops_per_s", "cpu_memory_bytes_per_s")),
            file.name,
        )
    )
    cpu = find(told, ("cpu",), shipped_parts()) or _cpu_by_words(told)
    gpu = file.gpu_memory_bytes >= NO_GPU_BYTES
    spread = {
        name: file.uncertainty.get(figure, 0.02 if measured(file, figure) else DEFAULT_SPREAD[name])
        for name, figure in (
            ("gpu", "gpu_memory_bytes_per_s"),
            ("ram", "cpu_memory_bytes_per_s"),
            ("link", "link_bytes_per_s"),
        )
    }
    nominal = file.gpu_memory_bytes_per_s / (shares["gpu_share"] if measured(file, "gpu_memory_bytes_per_s") else 1.0)
    part = Part(
        file.name, "gpu", "", file.gpu_memory_bytes / 2**30, nominal / 1e9, file.gpu_flops_per_s / 1e12,
        0, 0, 0, 0, 0, spread["gpu"], "", words,
    )  # fmt: skip
    ram = file.cpu_memory_bytes_per_s or (file.cpu_core_bytes_per_s or 0.0) * (file.cpu_cores or 1) or None
    storage = rate_at(file, READAHEAD_BYTES, 1, True) if file.storage_rates else None
    host = file.gpu_memory_bytes if file.unified_memory else file.host_memory_bytes
    rates = Rates(
        name=words,
        gpu=part if gpu else None,
        cpu=cpu,
        gpu_bytes_per_s=nominal if gpu else None,
        unified=file.unified_memory,
        gpu_count=1,
        ram_bytes_per_s=None if ram is None else ram / shares["dram_share"],
        ram_known=None if ram is None else STATED,
        cores=file.cpu_cores,
        link_bytes_per_s=file.link_bytes_per_s / shares["link_share"] if gpu else None,
        link_known=STATED if gpu else None,
        storage_bytes_per_s=storage,
        ram_bytes=None if host is None else float(host),
        vram_bytes=float(file.gpu_memory_bytes) if gpu else None,
        ram_uncertainty=spread["ram"],
        link_uncertainty=spread["link"],
    )
    return ForecastMachine(words, rates, tuple(_how_of_file(file, words)), file)


def measured(file: Hardware, figure: str) -> bool:
    """Whether a figure of a file was measured on the machine."""
    return file.sources.get(figure, "").startswith("MEASURED")


def _how_of_file(file: Hardware, words: str) -> list[str]:
    """How the figures of a file that count most are known."""
    shown = {"RAM": "cpu_memory_bytes_per_s", "GPU": "gpu_memory_bytes_per_s", "link": "link_bytes_per_s"}
    labels = {name: _label(file.sources.get(figure, "not stated")) for name, figure in shown.items()}
    if file.gpu_memory_bytes < NO_GPU_BYTES:
        labels = {"RAM": labels["RAM"], "GPU": "none"}
    noisy = " (NOT QUIET)" if any("NOT QUIET" in source for source in file.sources.values()) else ""
    return [f"hardware file {words}: " + ", ".join(f"{name} {label}" for name, label in labels.items()) + noisy]


def _label(source: str) -> str:
    """How a figure is known, and when it was measured."""
    label, day = source.split(":")[0], re.search(r"\d{4}-\d\d-\d\d", source)
    return f"{label} on {day[0]}" if day and label == "MEASURED" else label


def _cpu_by_words(told: str) -> Part | None:
    """A CPU of which only the width of its vectors is told."""
    for pattern, vector in ((r"\bamx\b", "amx"), (r"avx-?512", "avx512"), (r"avx-?2", "avx2"), (r"neon", "neon")):
        if re.search(pattern, told, re.I):
            return Part("CPU", "cpu", "", 0, 0, 0, 0, 0, 0, 0, 0, 0, vector, "")
    return None
