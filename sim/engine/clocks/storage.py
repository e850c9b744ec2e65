"""The compiled clock's storage: it reads one expert after the other, in the order in which it is asked."""

from __future__ import annotations

from numba.extending import register_jitable

from sim.engine.clocks.clock import Clock
from sim.engine.decision.struct_views import core_jit
from sim.machine import pieces

arrival = register_jitable(pieces.arrival)


@core_jit
def ask_storage(clock: Clock, layer: int, at_ns: int) -> int:
    """Let storage read an expert behind all that it was asked for -> when it is done."""
    clock.storage_end_ns = max(clock.storage_end_ns, at_ns) + clock.read_ns[layer]
    clock.storage_busy_ns += clock.read_ns[layer]
    return int(clock.storage_end_ns)
