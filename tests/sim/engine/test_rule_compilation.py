"""Forms in which a rule may be written, and what is said of one that does not compile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from policies.base import Eviction
from tests.support.random_traces import random_trace
from tests.support.replays import POLICIES, replay_of, run
from traces.errors import UserError


@dataclass(frozen=True)
class ByName(Eviction):
    """First in, first out, the clock counted in the rule's own memory; knobs by name."""

    unit: float = 2.0
    note: str = "text is no knob"
    floor: float | None = None

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1

    def admit(self, state: Any, memory: Any, layer: int, expert: int, prefetched: bool) -> None:
        memory[0] += self.unit
        state.priority[layer, expert] = memory[0] if self.floor != self.floor else self.floor


@dataclass(frozen=True)
class ByArray(ByName):
    """The same as a static method of (state, knobs, memory, ...)."""

    @staticmethod
    def admit(state: Any, knobs: Any, memory: Any, layer: int, expert: int, prefetched: bool) -> None:  # type: ignore
        memory[0] += knobs[0]
        state.priority[layer, expert] = memory[0] if knobs[1] != knobs[1] else knobs[1]


@dataclass(frozen=True)
class WrongArguments(Eviction):
    """Lacks its memory."""

    def touch(self, state: Any) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
@pytest.mark.parametrize("floor", [None, 1.0])
def test_knobs_by_name_and_in_an_array_decide_alike(engine, floor):
    trace = random_trace(0)
    results = [
        run(replay_of(trace, replace(POLICIES["lru"], eviction=rule(floor=floor)), engine=engine, slots_per_layer=3))
        for rule in (ByName, ByArray)
    ]
    assert results[0] == results[1]
    assert 0 < results[0]["hit_rate"] < 1


def test_a_decision_with_wrong_arguments_is_refused_with_its_place():
    with pytest.raises(UserError, match=r"test_rule_compilation.py:\d+: WrongArguments.touch does not compile"):
        replay_of(random_trace(0), replace(POLICIES["lru"], eviction=WrongArguments()), slots_per_layer=3)
