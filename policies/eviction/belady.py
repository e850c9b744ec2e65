"""Belady's MIN with bypass, over experts that the running step spares."""

from dataclasses import dataclass

from policies.base import Vector
from policies.eviction.belady_admit import BeladyAdmit
from policies.state import State


@dataclass(frozen=True)
class Belady(BeladyAdmit):
    """As ``belady_admit``, but a miss whose next use is no nearer than the victim's streams past the cache.

    Bypassed experts pass through a staging slot. No bound: experts of one layer step may not evict each other, and
    where a step demands more than the capacity it keeps its most recent experts. ``oracle`` is the bound.

    Source: Belady 1966 (see ``belady_admit``), extended by the choice not to admit.
    """

    def bypass(self, state: State, memory: Vector, expert: int, victim_layer: int, victim: int) -> bool:
        return bool(state.next_use[state.layer, expert] >= state.next_use[victim_layer, victim])
