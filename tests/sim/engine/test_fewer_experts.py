"""Tokens that use fewer than K experts of a layer, or none: what has no weights is never demanded, fetched or hit."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from policies.base import Substitution, Vector
from policies.prediction.trained import TrainedPrediction
from policies.state import State
from sim.assembly.catalogue import load_part, rule_names
from sim.assembly.replay import DeviceSetup, Replay
from sim.assembly.trial import Trial
from sim.config import RunConfig
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from tests.support.fixed_rules import DropAll
from tests.support.random_traces import random_trace, with_fewer
from tests.support.reference import reference_replay
from tests.support.replays import BARE, machine, replay_of, run
from tests.support.timelines import TIMED, requests, rows, timed
from traces.format.ranks import stored_absent


@dataclass(frozen=True)
class Fills(Substitution):
    """Give a token an expert more than its router did."""

    def substitute(self, state: State, memory: Vector) -> None:
        state.executed_ids[0, 1] = 7


def counted(replay: Replay, name: str) -> int:
    """What a replay has counted under a name of COUNTERS."""
    return int(replay.device.counts[COUNTERS.index(name)])


HARDWARE = {"gpu_memory_bytes_per_s": 1e10}


@pytest.mark.parametrize("engine", TIMED)
def test_only_what_is_routed_is_fetched_and_run(engine):
    """Copies of 1000 ns, experts of 100 ns: tokens of two, one and no expert, the last one again.

    Layer 0 of token 0 fetches 1 and 2: done at 1000 and 2000, 2100 ns. Token 1 has 1 alone, a hit of 100 ns. Token 2
    has none: no time. Token 3 fetches 3, which evicts 2 (used before 1): 1100 ns. Token 4 finds 1 and 3: 200 ns.
    """
    trace = rows([[1, 2]], [[1, -1]], [[-1, -1]], [[3, -1]], [[1, 3]])
    found = timed(trace, "lru", machine(**HARDWARE), engine=engine, slots_per_layer=2)
    assert found.latency_ns == [2100, 100, 0, 1100, 200]
    wanted = {"demanded": 6, "hits": 3, "fetches": 3, "executed": 6, "routed_ranks": 6, "demand_copies": 3}
    assert {name: found.counts[name] for name in wanted} == wanted
    assert found.metrics["hit_rate"] == 3 / 6


@pytest.mark.parametrize("engine", TIMED)
def test_a_batch_runs_the_union_of_what_its_tokens_use(engine):
    """Expert 0 serves two tokens; the third request's token uses none and still takes part in the step."""
    trace = requests([[[[0, 1]]], [[[0, -1]]], [[[-1, -1]]]], [0, 0, 0])
    found = timed(trace, "on_demand", machine(**HARDWARE), engine=engine, batch_size=3)
    assert found.latency_ns == [2100]
    assert {row[1]: row[4] for row in found.log if row[0] == 1} == {0: 2, 1: 1}


def test_known_hits_of_lru_and_belady():
    """Against a plain-Python replay that knows nothing of ranks."""
    for seed in range(4):
        trace = with_fewer(random_trace(seed, decodes=(14, 9)), 0.5, seed)
        for rule in ("lru", "belady_admit"):
            for engine in ("compiled", "untimed"):
                replay = replay_of(trace, rule, engine=engine, slots_per_layer=3)
                run(replay)
                hits, demanded, *_ = reference_replay(trace, rule, 3, "layer", 1)
                assert (counted(replay, "hits"), counted(replay, "demanded")) == (hits, demanded)


def test_an_expert_that_no_token_has_is_as_good_as_a_rank_without():
    """K = 1 with every second token empty replays as the same ids of K = 2 whose second rank is empty."""
    one = rows([[4]], [[-1]], [[5]], [[4]])
    two = rows([[4, -1]], [[-1, -1]], [[5, -1]], [[4, -1]])
    for policy in ("lru", "on_demand"):
        first, second = (timed(trace, policy, machine(**HARDWARE), engine="compiled", slots_per_layer=2)
                         for trace in (one, two))  # fmt: skip
        assert first.latency_ns == second.latency_ns
        assert first.counts == second.counts


@pytest.mark.parametrize("part", ["substitution", "prediction"])
def test_no_rule_looks_behind_a_tokens_last_rank(part):
    """As plain Python under checks, where an index of -1 is a fault: every shipped rule of the parts that read ids."""
    trace, others = (with_fewer(random_trace(seed, 2, 6), 0.6, seed) for seed in (1, 2))
    for name in rule_names(part):
        rule = load_part(part, name)
        if not isinstance(rule, TrainedPrediction):
            policy = replace(BARE, name=name, **{part: rule})
            setup = DeviceSetup(policy, machine(), CacheConfig(slots_per_layer=2), RunConfig(engine="compiled"))
            Trial.of(trace, setup, None, False, others, every=True).run(5.0)


def test_a_rule_that_fills_an_empty_rank_is_refused():
    policy = replace(BARE, name="fills", substitution=Fills())
    with pytest.raises(ValueError, match="more experts than its router did"):
        run(replay_of(rows([[1, -1]]), policy, engine="simpy"))


def test_a_token_without_experts_loses_no_gate_mass():
    """One of two tokens uses experts and all of its are dropped: a half of the gate mass of all tokens."""
    trace = with_fewer(random_trace(0, num_layers=1, prompts=(0,), decodes=(2,)), 0.0)
    ids, weights = trace.topk_ids.copy(), np.array(trace.topk_weights)
    ids[1], weights[1] = stored_absent(ids.dtype), 0
    trace = replace(trace, topk_ids=ids, topk_weights=weights)
    found = run(replay_of(trace, replace(BARE, name="drops", substitution=DropAll()), engine="compiled"))
    assert found["lost_gate_mass"] == 0.5
