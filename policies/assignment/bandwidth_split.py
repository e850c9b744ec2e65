"""Misses split in the ratio of two bandwidths: FreeToken's hybrid."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.state import CPU, State


@dataclass(frozen=True)
class BandwidthSplit(Assignment):
    """Send q = m * B_link / B_host of m misses over the link, and compute the rest on the CPU.

    Both read host memory: while the link takes B_link of it, B_host - B_link is left to the CPU, and both sides end
    together. In times of one expert, B_link / B_host = CPU time / copy time, so that q = m * sum(CPU) / sum(copies),
    rounded to the nearest number, at most m. The first misses of the demand take the link; those on the CPU are not
    cached. The source does not say how it rounds, nor which misses it fetches.
    Badly: with one or two misses a layer, where rounding decides.

    Source: FreeToken, section 3, https://arxiv.org/abs/2608.16157; https://github.com/FlashML-org/FreeToken.
    """

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        copies_ns, cpu_ns = 0, 0
        for i in range(state.num_missing):
            copies_ns += state.missing_load_ns[i]
            cpu_ns += state.missing_cpu_ns[i]
        fetched = state.num_missing
        if copies_ns > 0:
            fetched = min(state.num_missing, int(state.num_missing * (cpu_ns / copies_ns) + 0.5))
        for i in range(fetched, state.num_missing):
            state.side[i] = CPU
