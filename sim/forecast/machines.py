"""The machine of a forecast: its rates, and in words how they are known."""

from __future__ import annotations

from dataclasses import dataclass

from sim.machine.hardware import Hardware, hardware_names
from sim.validation.published.corpus.parts import LANE_GB_S, Rates


@dataclass(frozen=True, slots=True)
class ForecastMachine:
    """A machine with its rates; ``known`` says in words how the rates are known."""

    name: str
    rates: Rates
    known: tuple[str, ...]
    file: Hardware | None = None
    """Where its rates come from, if from one file."""
    not_read: tuple[str, ...] = ()
    """Words of the machine that say nothing known."""
    shared_bytes: float | None = None
    """What of a memory that CPU and GPU share the GPU may fill, where somebody says it."""

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU with a rate that is known."""
        return self.rates.gpu_bytes_per_s is not None

    @property
    def gpu_bytes(self) -> float:
        """Memory that the GPU may fill."""
        if self.rates.unified and self.shared_bytes is not None:
            return self.shared_bytes
        if self.rates.unified:
            return UNIFIED_SHARE * (self.rates.ram_bytes or 0.0)
        return self.rates.vram_bytes or 0.0


UNIFIED_SHARE = 0.75
"""Of a memory that CPU and GPU share, what the system lets the GPU take: ESTIMATED, macOS's default for large ones."""


def files_alike(words: str) -> list[str]:
    """Hardware files of a GPU of which nothing else is said: rtx4070_ddr5 of RTX 4070."""
    return [name for name in hardware_names() if name.split("_")[0] == words.lower().replace(" ", "")]


def with_next_link(rates: Rates) -> float | None:
    """The rate of the same lanes of the next generation of PCIe; None where there is none faster."""
    if rates.link_bytes_per_s is None or rates.unified:
        return None
    return 2.0 * rates.link_bytes_per_s if rates.link_bytes_per_s < 1.5e9 * LANE_GB_S[5] * 8 else None
