"""Belady's MIN with forced admission, over experts that the running step spares."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.needs import Need
from policies.state import State


@dataclass(frozen=True)
class BeladyAdmit(Eviction):
    """Evict the expert whose next demand by the recorded router lies furthest ahead; every miss is admitted.

    The best of the rules that fetch on demand, admit every miss and evict nothing that the running layer step demands,
    which is what most caches do, for experts of equal size. What may also evict experts of its own step, once they have
    run, hits more: ``oracle``. Not a bound for rules that prefetch or substitute, and no rule at all for a live system:
    it reads the future.

    Source: L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2),
    1966, https://doi.org/10.1147/sj.52.0078.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FUTURE})

    def touch(self, state: State, memory: Vector) -> None:
        for i in range(state.num_demand):
            expert = state.demand[i]
            state.priority[state.layer, expert] = -float(state.next_use[state.layer, expert])

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        state.priority[layer, expert] = -float(state.next_use[layer, expert])
