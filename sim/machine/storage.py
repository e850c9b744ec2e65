"""How fast storage reads: a table of rates by the size of a request, how many are under way, and their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from traces.errors import UserError

READAHEAD_BYTES = 131_072
"""What Linux reads ahead of a page fault unless told otherwise (read_ahead_kb of a block device)."""


@dataclass(frozen=True, slots=True)
class PeerLinks:
    """The links of a second GPU that stores experts for the first."""

    peer_bytes_per_s: float
    """From the second GPU to the first, and back."""
    host_bytes_per_s: float | None
    """From host memory to the second GPU; None: as to the first."""

    def to_slots(self, machine: Machine) -> Machine:
        """The machine as copies between the GPUs find it: latency and calls of any copy, at a rate of their own."""
        between = {"link_bytes_per_s": self.peer_bytes_per_s, "link_back_bytes_per_s": None, "link_half_bytes": 0.0}
        return machine.with_figures({**between, "memory": "pinned"})

    def to_store(self, machine: Machine) -> Machine:
        """The machine as copies from host memory to the second GPU find it."""
        rate = self.host_bytes_per_s
        return machine if rate is None else machine.with_figures({"link_bytes_per_s": rate})


@dataclass(frozen=True, slots=True)
class Reading:
    """How software reads an expert."""

    request_bytes: int | None
    """None: a tensor of the expert each."""
    depth: int
    """Requests under way at once."""
    sequential: bool
    """In the order of the file, as the kernel reads ahead; else wherever the expert lies."""
    peer: PeerLinks | None = None
    """Nothing is read from a file: the store is a second GPU, and host memory lies behind it."""


def rate_at(hardware: Hardware, request_bytes: float, depth: int, sequential: bool) -> float:
    """Bytes per second of requests of this size, so many at once.

    Between two rows of the table the logarithm of the rate is linear in that of the size, then in that of the depth;
    beyond its ends the nearest row counts.

    Raises: UserError where the machine states no rates.
    """
    if not hardware.storage_rates:
        raise UserError(f"hardware {hardware.name} states no storage_rates, so nothing can be read from storage")
    by_depth: dict[float, list[Sequence[float]]] = {}
    for row in hardware.storage_rates:
        by_depth.setdefault(math.log(row[1]), []).append(row)
    depths = sorted(by_depth)
    rates = [_along(by_depth[at], request_bytes, 3 if sequential else 2) for at in depths]
    return float(math.exp(np.interp(math.log(depth), depths, rates)))


def _along(rows: list[Sequence[float]], request_bytes: float, column: int) -> float:
    """Logarithm of the rate at a size, of rows of one depth."""
    ordered = sorted(rows, key=lambda row: row[0])
    sizes, rates = zip(*((math.log(row[0]), math.log(row[column])) for row in ordered), strict=True)
    return float(np.interp(math.log(request_bytes), sizes, rates))


def request_bytes(size: float, machine: Machine, reading: Reading) -> float:
    """Bytes of one request of an expert of ``size`` bytes: at most a tensor of it."""
    tensor = size / machine.runtime.copies_per_expert
    return min(tensor, reading.request_bytes or tensor)


def read_s(sizes: Sequence[int], machine: Machine, reading: Reading) -> tuple[NDArray[Any], NDArray[Any]]:
    """(seconds of reading an expert [L], seconds until its first request has arrived [L]).

    A read takes the latency of its first request, then its bytes at the rate of the table.
    """
    hardware = machine.hardware
    requests = [request_bytes(size, machine, reading) for size in sizes]
    rates = np.array([rate_at(hardware, request, reading.depth, reading.sequential) for request in requests])
    latency_s = hardware.storage_latency_s or 0.0
    return latency_s + np.asarray(sizes) / rates, latency_s + np.asarray(requests) / rates
