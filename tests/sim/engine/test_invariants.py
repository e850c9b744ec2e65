"""What must hold after every replay is found broken where a rule or an engine breaks it."""

from dataclasses import dataclass, replace

import pytest

from policies.base import Vector
from policies.eviction.lru import Lru
from policies.state import State
from sim.engine.decision import counters
from sim.engine.decision.counters import N_DEMANDED
from sim.engine.invariants import broken_invariants
from tests.support.replays import BARE, replay_of, run
from tests.support.timelines import rows
from traces.errors import UserError

ENGINES = ("simpy", "compiled", "untimed")
TRACE = rows([[0, 1], [1, 2]], [[1, 2], [2, 3]])


@dataclass(frozen=True)
class Hoard(Lru):
    """Protects what was demanded for ever, which is not for a rule to say."""

    def touch(self, state: State, memory: Vector) -> None:
        state.shield[state.layer, (state.demand[0] + 5) % state.num_experts] = 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rule_that_writes_what_it_may_not(engine):
    with pytest.raises(UserError, match=r"Hoard\.touch writes what is not its own"):
        replay_of(TRACE, replace(BARE, name="hoard", eviction=Hoard()), engine=engine, slots_per_layer=3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("used", "bytes occupy"),
        ("staged", "1 experts are left in Cache.staged"),
        ("counts", "outcomes were counted of"),
    ],
)
def test_every_invariant_says_what_is_left(name, sentence):
    replay = replay_of(TRACE, "lru", engine="compiled", slots_per_layer=3)
    run(replay)
    assert list(broken_invariants(replay.device)) == []
    replay.device.cache_arrays[name][N_DEMANDED if name == "counts" else 0] += 1
    assert sentence in " ".join(broken_invariants(replay.device))


def test_the_number_of_a_counter_is_its_place_in_the_list():
    for number, name in enumerate(counters.COUNTERS):
        assert getattr(counters, f"N_{name.upper()}") == number
