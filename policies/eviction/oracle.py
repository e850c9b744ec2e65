"""The bound of rules that fetch on demand: what stays is chosen once the step is known."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Eviction, Vector
from policies.needs import Need
from policies.state import State


@dataclass(frozen=True)
class Oracle(Eviction):
    """After each layer step keep, of the residents and what the step executed, those that are demanded next soonest.

    No rule that fetches experts of equal size on demand hits more often, whatever it admits or evicts: a demanded
    expert may leave at the end of its own step, which ``belady`` and ``belady_admit`` forbid. Not a bound for rules
    that prefetch or substitute, nor for experts of different sizes; of times it is none at all: a miss that stays may
    wait for the slot of an expert that runs first. It reads the future, so it is no rule for a live system.
    ``admit_all``: what was missed stays, as far as it fits, and only the rest is chosen. That is greedy and not quite
    the best under this condition, where what is missed again comes in for nothing.

    Source: L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2),
    1966, https://doi.org/10.1147/sj.52.0078, for steps that demand several experts at once.
    """

    admit_all: bool = False

    after_step: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FUTURE})

    def touch(self, state: State, memory: Vector) -> None:
        layer = state.layer
        for i in range(state.num_executed):
            expert = state.executed[i]
            state.priority[layer, expert] = -float(state.next_use[layer, expert])
        for i in range(state.num_demand):
            expert = state.demand[i]
            state.priority[layer, expert] = -float(state.next_use[layer, expert])
        if self.admit_all:
            for i in range(state.num_missing):  # above all that is resident, the soonest first
                expert = state.missing[i]
                state.priority[layer, expert] = 1.0 / state.next_use[layer, expert]

    def admit(self, state: State, memory: Vector, layer: int, expert: int, prefetched: bool) -> None:
        state.priority[layer, expert] = -float(state.next_use[layer, expert])
