"""Who keeps a slot in the rarer cases, with what it costs; worked out by hand. A copy of 1000 bytes takes 1000 ns."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.fixed_rules import LowUntil, Refuse, Twice, fetching
from tests.support.random_traces import routed
from tests.support.replays import BARE, machine
from tests.support.timelines import TIMED, rows, timed

pytestmark = pytest.mark.parametrize("engine", TIMED)
FREE_LOW = {"dequantise_bytes_per_s": 1e18}


@pytest.mark.parametrize("reset", ["never", "request"])
def test_the_link_is_not_busier_than_the_clock(engine, reset):
    """A prefetch of 1000 ns that nobody wants starts at 100; the clock stops at 200."""
    hardware = machine(host_s_per_layer=100e-9)
    policy = fetching(first=5)
    found = timed(rows([[0], [1]]), policy, hardware, engine=engine, slots_per_layer=4, start="warm", reset=reset)
    assert found.latency_ns == [200]
    assert found.metrics["link_utilisation"] == 0.0
    longer = timed(rows(*[[[0], [1]]] * 6), policy, hardware, engine=engine, slots_per_layer=4, start="warm")
    assert longer.metrics["link_utilisation"] == pytest.approx(1000 / 1200)


def test_a_prefetch_that_arrives_while_the_head_computes_is_there_at_the_end(engine):
    trace, hardware = rows([[0], [1]], other_bytes=5000), machine(gpu_memory_bytes_per_s=1e9)
    off = {"experts": False}
    found = timed(trace, fetching(first=5), hardware, engine=engine, slots_per_layer=4, start="warm", time=off)
    assert found.latency_ns == [5000]
    assert found.replay.device.residents()[1].nonzero()[0].tolist() == [1, 2, 3, 5]
    assert found.metrics["link_utilisation"] == pytest.approx(1000 / 5000)


@pytest.mark.parametrize(
    ("refused", "latency_ns", "evictions"),
    [
        # the first victim, expert 0 of layer 0, goes; so does the second, although the rule would keep that one
        (8, [1300, 1000, 300], 2),
        # the first victim stays, and so does everything: expert 1 of layer 1 passes by the cache twice
        (0, [1300, 1000, 1000], 0),
    ],
)
def test_a_miss_that_needs_two_victims_is_refused_before_the_first_goes_or_not_at_all(
    engine, refused, latency_ns, evictions
):
    """One pool of 1300 bytes; experts of layer 0 have 300 bytes, those of layer 1 1000."""
    trace = rows([[0], [0]], [[0], [1]], [[0], [1]], expert_bytes=(300, 1000))
    policy = replace(BARE, name="refuse", eviction=Refuse(refused))
    found = timed(trace, policy, engine=engine, scope="global", bytes=1300)
    assert found.latency_ns == latency_ns
    assert found.counts["evictions"] == evictions


def test_all_victims_of_a_copy_go_home_before_it(engine):
    """300 + 1000 ns for two victims, then 1000 ns for the copy."""
    trace = rows([[0], [0]], [[0], [1]], expert_bytes=(300, 1000))
    policy = replace(BARE, name="refuse", eviction=Refuse(8), write_back="serial")
    assert timed(trace, policy, engine=engine, scope="global", bytes=1300).latency_ns == [1300, 2300]


def test_a_cancelled_prefetch_leaves_the_low_precision_version_alone(engine):
    """2300 bytes hold 4 and 5 (fetched in full) and 6 in low precision; 6 in full finds no slot in step 2."""
    policy = replace(fetching(first=4, count=3), substitution=LowUntil(9))
    hardware = machine(host_s_per_layer=10e-6, **FREE_LOW)
    found = timed(rows([[0], [6]], [[0], [6]]), policy, hardware, engine=engine, bytes=4600)
    assert found.parts_ns["link"] == 250 + 250
    assert found.replay.device.cache_arrays["used"].tolist() == [250, 2250]


def test_a_full_prefetch_takes_the_bytes_of_the_low_precision_version(engine):
    """One slot: 5 is there with 250 bytes; fetched in full it takes the whole slot, and nothing is evicted.

    Step 1: 250 ns in each layer. Step 2, in full: 0 until 1000; 5 follows and is late, until 2000.
    """
    policy = replace(fetching(first=5, since=1), substitution=LowUntil(1))
    found = timed(rows([[0], [5]], [[0], [5]]), policy, machine(**FREE_LOW), engine=engine, slots_per_layer=1)
    assert found.latency_ns == [500, 2000]
    assert found.slices("prefetch") == [(13, 1500, 2500)]
    assert found.replay.device.cache_arrays["used"].tolist() == [1000, 1000]
    assert found.counts["evictions"] == 0
    assert found.counts["late"] == found.counts["prefetch_late"] == 1


def test_a_refused_miss_leaves_its_low_precision_version_alone(engine):
    """0 and 1 lie in one slot with 250 bytes each; 0 in full would have to evict 1, which the rule refuses."""
    policy = replace(BARE, name="refuse", eviction=Refuse(1), substitution=LowUntil(2))
    found = timed(rows([[0]], [[1]], [[0]]), policy, machine(**FREE_LOW), engine=engine, slots_per_layer=1)
    assert found.latency_ns == [250, 250, 1000]
    assert found.replay.device.cache_arrays["used"].tolist() == [500]
    assert found.counts["bypasses"] == 1


@pytest.mark.parametrize("write_back", ["serial", "overlap"])
def test_a_low_precision_victim_goes_home_with_its_own_bytes(engine, write_back):
    """Four of 250 bytes fill a slot; the fifth sends one home, 250 ns before or beside its own 250 ns."""
    policy = replace(BARE, name="low", substitution=LowUntil(9), write_back=write_back)
    trace = rows(*([[[expert]] for expert in range(5)]))
    found = timed(trace, policy, machine(**FREE_LOW), engine=engine, slots_per_layer=1)
    assert found.latency_ns == [250] * 4 + [500 if write_back == "serial" else 250]
    assert found.slices("back") == [(4, 1000, 1250)]
    assert found.counts["written_back_bytes"] == 250


def test_an_expert_on_the_link_that_is_wanted_again_keeps_its_slot(engine):
    """Step 1 fetches 5 in vain (500 to 1700); step 2 names it again at 1500, and 6, which may not push it out at 1700.

    Layer 1 has two slots: 5 evicts 0, then 6 evicts 1; the lookup of 5 at 2000 hits.
    """
    trace = rows([[0], [1]], [[0], [5]], expert_bytes=(1200, 1200))
    hardware = machine(host_s_per_layer=500e-9)
    policy = fetching(first=5, count=2)
    found = timed(trace, policy, hardware, engine=engine, slots_per_layer=2, start="warm")
    assert found.latency_ns == [1000, 1000]
    assert found.slices("prefetch") == [(13, 500, 1700), (14, 1700, 2900)]
    assert found.counts["hits"] == 4


def test_a_paused_prefetch_that_is_wanted_again_goes_on(engine):
    """Pieces of 1200 ns from 500 on; layer 1 of step 1 does not want it, step 2 names it at 1500, before 1700."""
    trace = rows([[0], [1]], [[0], [5]], expert_bytes=(3600, 3600))
    hardware = machine(host_s_per_layer=500e-9)
    policy = fetching(first=5, pieces=3)
    found = timed(trace, policy, hardware, engine=engine, slots_per_layer=2, start="warm")
    assert found.slices("prefetch") == [(13, 500, 1700), (13, 1700, 2900), (13, 2900, 4100)]
    assert found.latency_ns == [1000, 3100]
    assert found.counts["prefetch_abandoned"] == 0


def test_one_expert_twice_for_one_token_is_refused(engine):
    """More tokens for an expert than the step has would be read beyond the tables of durations."""
    with pytest.raises(ValueError, match="gave one token the same expert twice"):
        timed(rows([[0, 1]]), replace(BARE, name="twice", substitution=Twice()), engine=engine)


def test_what_runs_in_low_precision_counts_as_lost_and_by_itself(engine):
    """Step 1 runs both of its experts in low precision, step 2 both in full: half of the two steps' weight."""
    logits = np.zeros((2, 1, 8), np.float32)
    trace = routed(np.array([[[0, 1]], [[0, 2]]]), 8, [0], [2], logits)
    policy = replace(BARE, name="low", substitution=LowUntil(1))
    found = timed(trace, policy, machine(**FREE_LOW), engine=engine, slots_per_layer=4)
    assert found.counts["degraded_ranks"] == 2
    assert found.metrics["degraded_gate_mass"] == found.metrics["lost_gate_mass"] == pytest.approx(0.5)
