"""A phone with its experts on flash as the time model sees it: constants fitted on the telemetry of one run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from sim.validation.published.big_moe_on_edge.telemetry import Telemetry, Vector
from traces.format.trace import Geometry


@dataclass(frozen=True, slots=True)
class Phone:
    """Constants fitted on one run."""

    compute_s: float
    """Per token."""
    read_bytes_per_s: float
    """Of all lanes together, while they read."""
    waited_bytes_per_s: float
    """Bytes read over the time that the computation waited for them."""
    manage_s: float
    """Per token, whatever is read."""
    manage_s_per_read: float

    def token_s(self, reads: Vector, expert_bytes: float) -> Vector:
        """Seconds of tokens that read so many experts: what the engine's clock comes to where nothing overlaps."""
        read_s = self.manage_s_per_read + expert_bytes / self.waited_bytes_per_s
        return np.asarray(self.compute_s + self.manage_s + reads * read_s, np.float64)


def fit_phone(run: Telemetry, expert_bytes: float, chosen: NDArray[np.int64] | None = None) -> Phone:
    """The constants from a run's means, on the tokens `chosen` (all where None).

    The lanes read at once, so the flash gives read_bytes / (io_ms / lanes). Managing is a line in the number of reads,
    by least squares, neither part below zero.
    """
    rows = np.arange(len(run)) if chosen is None else chosen
    reads, managed_ms = run.read_bytes[rows] / expert_bytes, run.mgmt_ms[rows]
    slope = float(np.polyfit(reads, managed_ms, 1)[0]) if np.ptp(reads) > 0 else 0.0
    slope = float(np.clip(slope, 0.0, managed_ms.mean() / max(float(reads.mean()), 1e-9)))
    bytes_read = float(run.read_bytes[rows].sum())
    return Phone(
        compute_s=float(run.compute_ms[rows].mean()) / 1e3,
        read_bytes_per_s=bytes_read / (float(run.io_ms[rows].sum()) / 1e3 / run.settings["io_threads"]),
        waited_bytes_per_s=bytes_read / (float(run.stall_ms[rows].sum()) / 1e3),
        manage_s=float((managed_ms - slope * reads).mean()) / 1e3,
        manage_s_per_read=slope / 1e3,
    )


def phone_machine(phone: Phone, geometry: Geometry, overlap: bool) -> Machine:
    """The phone as the time model sees it: flash is the link, and computing reads the weights at one rate.

    Without ``overlap`` all but reading is in `host_s_per_layer`, ahead of the reads; with it experts are computed one
    by one while others are read, at the rate of the lanes.
    """
    assert geometry.expert_bytes is not None and geometry.attention_bytes is not None
    read_by_compute = sum(geometry.attention_bytes) + geometry.top_k * sum(geometry.expert_bytes)
    fitted = {
        "gpu_memory_bytes_per_s": "computing per token over all weights that a token uses",
        "link_bytes_per_s": "bytes read over the time of reading" if overlap else "bytes read over the time of waiting",
        "link_latency_s": "managing the cache, what grows with the reads",
        "host_s_per_layer": "managing the cache, what does not grow" + ("" if overlap else ", and computing"),
    }
    managing_s = phone.manage_s + (0.0 if overlap else phone.compute_s)
    sources = {name: f"FITTED: run a, {meaning}" for name, meaning in fitted.items()}
    of_runtime = {"host_s_per_layer": sources.pop("host_s_per_layer")}
    hardware = Hardware(
        name="phone",
        gpu_memory_bytes=1,
        gpu_memory_bytes_per_s=read_by_compute / phone.compute_s,
        gpu_flops_per_s=1e18,  # the arithmetic is in the fitted rate
        link_latency_s=phone.manage_s_per_read,
        link_bytes_per_s=phone.read_bytes_per_s if overlap else phone.waited_bytes_per_s,
        label="FITTED",
        sources=sources,
    )
    return Machine(hardware, Runtime("phone", managing_s / geometry.num_layers, label="FITTED", sources=of_runtime))
