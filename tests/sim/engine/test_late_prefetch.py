"""A prefetch that is still on the link when its layer comes, and prefetches that must not come that late; by hand.

A copy takes 1000 ns, an expert on the CPU 500, what a layer costs ahead of its lookup 100. Experts 0 to 3 are there.
"""

from dataclasses import replace

import pytest

from policies.assignment.cheaper_side import CheaperSide
from policies.prediction.lookahead import Lookahead
from policies.prediction.oracle import Oracle
from policies.prefetch.layers_ahead import LayersAhead
from policies.prefetch.top_score import TopScore
from tests.support.fixed_rules import LastOnCpu, fetching
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, POLICIES, machine, replay_of, run
from tests.support.timelines import TIMED, rows, timed

pytestmark = pytest.mark.parametrize("engine", TIMED)
HARDWARE = machine(host_s_per_layer=100e-9)
WARM = {"slots_per_layer": 4, "start": "warm"}
LATE = fetching(first=5)
ON_CPU = replace(LATE, assignment=LastOnCpu())
WANTED, WRONG = [[0], [5]], [[0], [6]]


def late(engine, policy, *tokens, hardware=HARDWARE, **flags):
    return timed(rows(*tokens), policy, hardware.with_figures(flags), engine=engine, **WARM)


@pytest.mark.parametrize("flags", [{}, {"cancel_late_copy": True}])
def test_the_step_waits_for_an_expert_on_the_link(engine, flags):
    """Looked up at 100 and 200; the copy begins at 100."""
    found = late(engine, ON_CPU, WANTED, **flags)
    assert found.latency_ns == [1100]
    assert (found.counts["late"], found.counts["prefetch_late"], found.counts["copied_bytes"]) == (1, 1, 1000)


def test_the_cpu_may_take_it_while_the_copy_runs_on(engine):
    """From 200 to 700 on the CPU; in step 2 from 900 to 1400; at 1600 it has been there since 1100."""
    found = late(engine, ON_CPU, WANTED, WANTED, WANTED, late_copy_to_cpu=True)
    assert found.latency_ns == [700, 700, 200]
    assert found.slices("cpu") == [(13, 200, 700), (13, 900, 1400)]
    assert found.slices("prefetch") == [(13, 100, 1100)]
    assert {name: found.counts[name] for name in ("cpu", "late", "prefetch_late")} == {
        "cpu": 2, "late": 0, "prefetch_late": 1,
    }  # fmt: skip
    assert found.counts["hits"] == 4


def test_or_take_it_and_stop_the_copy(engine):
    """Of each copy 100 ns and 100 bytes were in vain."""
    found = late(engine, ON_CPU, WANTED, WANTED, late_copy_to_cpu=True, cancel_late_copy=True)
    assert found.latency_ns == [700, 700]
    assert found.slices("prefetch") == [(13, 100, 200), (13, 800, 900)]
    assert (found.counts["copied_bytes"], found.counts["prefetch_late"]) == (200, 2)
    assert found.metrics["link_utilisation"] == pytest.approx(200 / 1400)


def test_a_rule_that_gives_nothing_to_the_cpu_changes_nothing(engine):
    link_only = replace(LATE, assignment=LastOnCpu(0))
    assert late(engine, link_only, WANTED, late_copy_to_cpu=True).latency_ns == [1100]
    assert late(engine, LATE, WANTED, late_copy_to_cpu=True, cancel_late_copy=True).latency_ns == [1100]


def test_what_is_left_of_the_copy_is_its_cost(engine):
    """900 ns are left at the lookup: a CPU that takes 850 is faster, one that takes 950 is not."""
    for ratio, latency_ns in ((0.85, 1050), (0.95, 1100)):
        hardware = machine(host_s_per_layer=100e-9, cpu_ratio=ratio)
        policy = replace(LATE, assignment=CheaperSide())
        assert late(engine, policy, WANTED, hardware=hardware, late_copy_to_cpu=True).latency_ns == [latency_ns]


def test_a_wrong_prefetch_holds_the_link_unless_it_may_stop(engine):
    """6 is copied from 1100 to 2100, or from 200 to 1200."""
    assert late(engine, LATE, WRONG).latency_ns == [2100]
    found = late(engine, LATE, WRONG, cancel_late_copy=True)
    assert found.latency_ns == [1200]
    assert found.slices("prefetch", "copy") == [(13, 100, 200), (14, 200, 1200)]
    assert (found.counts["prefetch_abandoned"], found.counts["copied_bytes"]) == (1, 100 + 1000)


def test_the_victim_of_a_stopped_copy_is_written_back_all_the_same(engine):
    """It goes home from 100 to 1100; 6 takes the slot that is free now, from 1100 to 2100."""
    found = late(engine, replace(LATE, write_back="serial"), WRONG, cancel_late_copy=True)
    assert found.latency_ns == [2100]
    assert found.slices("back", "copy") == [(13, 100, 1100), (14, 1100, 2100)]
    assert (found.counts["copied_bytes"], found.counts["written_back_bytes"]) == (1000, 1000)


@pytest.mark.parametrize(("pieces", "first_ns"), [(2, 500), (4, 250)])
def test_between_two_pieces_it_can_be_given_up_at_once(engine, pieces, first_ns):
    """The CPU computes it from 200 to 700; the piece that is on the link ends, and the rest never comes."""
    policy = replace(fetching(first=5, pieces=pieces), assignment=LastOnCpu())
    found = late(engine, policy, WANTED, late_copy_to_cpu=True)
    assert found.latency_ns == [700]
    assert found.slices("prefetch") == [(13, 100, 100 + first_ns)]
    assert found.counts["copied_bytes"] == 1000 // pieces


@pytest.mark.parametrize(("host_ns", "fetched"), [(999, 0), (1000, 1)])
def test_on_an_idle_link_only_what_arrives_before_the_next_lookup_is_fetched(engine, host_ns, fetched):
    policy = replace(BARE, name="idle", prediction=Oracle(1), prefetch=LayersAhead(link_idle=True))
    hardware = machine(host_s_per_layer=host_ns * 1e-9)
    found = late(engine, policy, WANTED, hardware=hardware)
    assert (found.counts["prefetch_copies"], found.counts["hits"]) == (fetched, 1 + fetched)
    busy = late(engine, policy, [[7], [5]], hardware=hardware)  # layer 0 misses: the link is taken
    assert busy.counts["prefetch_copies"] == 0


@pytest.mark.parametrize("host_ns", [0, 200, 500, 1000, 3000])
def test_gated_prefetches_never_delay_what_is_demanded(engine, host_ns):
    """All experts fit, so that nothing is evicted for a prefetch: with the gate no step is slower than without any."""
    trace, hardware = random_trace(7), machine(host_s_per_layer=host_ns * 1e-9)
    policy = replace(POLICIES["prefetch"], prediction=Lookahead(), prefetch=TopScore(link_idle=True))
    knobs = {"slots_per_layer": 8, "engine": engine}
    gated, none = (run(replay_of(trace, rule, hardware, **knobs)) for rule in (policy, BARE))
    assert gated["simulated_s"] <= none["simulated_s"]
    assert gated["late_rate"] == 0.0
