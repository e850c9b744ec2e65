"""The link's terms, each alone: copies, prefetches, pieces, victims on their way home, staging slots.

``machine()`` copies 1000 bytes in 1000 ns and does everything else in no time; keys in slices are layer * 8 + expert.
"""

from dataclasses import replace

import pytest

from tests.support.fixed_rules import LowUntil, fetching
from tests.support.replays import BARE, machine
from tests.support.timelines import TIMED, rows, timed

pytestmark = pytest.mark.parametrize("engine", TIMED)


@pytest.mark.parametrize(
    ("figures", "size", "copy_ns"),
    [
        ({}, 1000, 1000),
        ({"link_latency_s": 300e-9}, 1000, 300 + 1000),
        ({"link_half_bytes": 500.0}, 1000, 1000 + 500),
        ({"link_half_bytes": 500.0}, 500, 2 * 500),  # a copy of the half size gets half of the bandwidth
        ({"link_latency_s": 300e-9, "link_half_bytes": 500.0}, 1000, 300 + 1500),
        ({"link_latency_s": 300e-9, "link_half_bytes": 500.0, "copies_per_expert": 3}, 1000, 900 + 1000 + 1500),
    ],
)
def test_a_copy_takes_alpha_and_its_bytes(engine, figures, size, copy_ns):
    """t(x) = alpha + x / beta(x), beta(x) = beta * x / (x + x_half); every tensor pays alpha and x_half."""
    trace = rows([[0], [1]], [[2], [3]], expert_bytes=(size, size))
    found = timed(trace, "on_demand", machine(**figures), engine=engine)
    assert found.latency_ns == [2 * copy_ns, 2 * copy_ns]
    assert found.spent() == {"link": 4 * copy_ns}
    assert found.counts["copied_bytes"] == 4 * size


@pytest.mark.parametrize(
    ("memory", "copy_ns", "host_ns"),
    [
        ("pinned", 2 * 100 + 1000, 2 * 15),
        ("pageable", 2 * 200 + 2500, 2 * 50),
        ("staged", 500 + 2 * 100 + 1000, 2 * 15),
    ],
)
def test_kinds_of_host_memory(engine, memory, copy_ns, host_ns):
    """Two tensors per expert: latency and host call of each; a staged copy follows the host's own copy."""
    hardware = machine(
        copies_per_expert=2, link_latency_s=100e-9, link_call_s=15e-9, pageable_bytes_per_s=4e8,
        pageable_latency_s=200e-9, pageable_call_s=50e-9, staging_bytes_per_s=2e9, memory=memory,
    )  # fmt: skip
    found = timed(rows([[0]], [[1]]), "on_demand", hardware, engine=engine)
    assert found.latency_ns == [copy_ns, copy_ns]
    assert found.spent() == {"host": 2 * host_ns, "link": 2 * (copy_ns - host_ns)}


@pytest.mark.parametrize(("call_ns", "host_ns", "link_ns"), [(70, 140, 1860), (1500, 3000, 0)])
def test_the_host_issues_copies_while_the_link_begins(engine, call_ns, host_ns, link_ns):
    found = timed(rows([[0, 1]]), "on_demand", machine(link_call_s=call_ns * 1e-9), engine=engine)
    assert found.parts_ns["host"] == host_ns
    assert found.parts_ns["link"] == link_ns
    assert found.latency_ns == [max(2000, host_ns)]


def test_demand_goes_before_prefetch(engine):
    """Layer 0 demands 0 and 1 and prefetches 5 of layer 1, which comes third and makes layer 1 wait; 6 comes after."""
    trace = rows([[0, 1], [5, 6]])
    hardware = machine(host_s_per_layer=100e-9, link_call_s=10e-9)
    found = timed(trace, fetching(first=5), hardware, engine=engine, slots_per_layer=4)
    assert found.slices("copy") == [(0, 100, 1100), (1, 1100, 2100), (8 + 6, 3100, 4100)]
    assert found.slices("prefetch") == [(8 + 5, 2100, 3100)]
    assert found.latency_ns == [4100]
    # two layers' host time and three calls: the prefetch is issued beside the host's work
    assert found.spent() == {"host": 200 + 30, "link": 4100 - 230}
    assert found.counts["late"] == found.counts["prefetch_late"] == 1


@pytest.mark.parametrize(("host_ns", "wait_ns"), [(1, 999), (400, 600), (999, 1), (1000, 0), (1500, 0)])
def test_a_prefetch_hides_behind_the_next_layers_host_time(engine, host_ns, wait_ns):
    """Layer 0 hits (warm); its prefetch has the host time of layer 1. What arrives at the lookup itself is a hit."""
    hardware = machine(host_s_per_layer=host_ns * 1e-9)
    found = timed(rows([[0], [5]]), fetching(first=5), hardware, engine=engine, slots_per_layer=4, start="warm")
    assert found.latency_ns == [2 * host_ns + wait_ns]
    assert found.parts_ns["link"] == wait_ns
    assert (found.counts["late"], found.counts["hits"]) == ((1, 1) if wait_ns else (0, 2))
    assert found.counts["prefetch_used"] + found.counts["prefetch_late"] == 1


def test_what_still_queues_is_cancelled_when_its_layer_begins(engine):
    """Of three prefetches for layer 1 one has started when layer 1 demands another expert, which goes next."""
    hardware = machine(host_s_per_layer=400e-9)
    policy = fetching(first=5, count=3)
    found = timed(rows([[0], [4]]), policy, hardware, engine=engine, slots_per_layer=4, start="warm")
    assert found.slices("prefetch") == [(8 + 5, 400, 1400)]
    assert found.slices("copy") == [(8 + 4, 1400, 2400)]
    assert found.latency_ns == [2400]
    assert (found.counts["prefetch_cancelled"], found.counts["prefetch_wasted"]) == (2, 1)
    assert found.counts["copied_bytes"] == 2000


PIECES = fetching(layer=2, first=5, pieces=3)
NINE_HUNDRED = {"expert_bytes": (900, 900, 900)}
HOST_100 = {"host_s_per_layer": 100e-9}


@pytest.mark.parametrize(
    ("last", "copies", "pieces", "total_ns"),
    [
        # interrupted by layer 1's demand at 400, resumed at 1300; layer 2 waits for it until 1900
        ([5], [(12, 400, 1300)], [100, 1300, 1600], 1900),
        # the late piece goes before the demand of the same layer, which waits for both
        ([5, 6], [(12, 400, 1300), (22, 1900, 2800)], [100, 1300, 1600], 2800),
        # layer 2 does not want it: the second piece is on its way at the lookup, the third never goes
        ([6], [(12, 400, 1300), (22, 1600, 2500)], [100, 1300], 2500),
    ],
)
def test_a_prefetch_in_pieces_is_interrupted_by_demand(engine, last, copies, pieces, total_ns):
    """Pieces of 300 ns for layer 2 from 100 on; layer 1 (lookup at 200) misses 4; layer 2's lookup is at 1400."""
    second = [4] if len(last) == 1 else [4, 0]
    first = [0] if len(last) == 1 else [0, 1]
    trace = rows([first, second, last], **NINE_HUNDRED)
    found = timed(trace, PIECES, machine(**HOST_100), engine=engine, slots_per_layer=4, start="warm")
    assert found.slices("copy") == copies
    assert found.slices("prefetch") == [(21, begin, begin + 300) for begin in pieces]
    assert found.latency_ns == [total_ns]
    assert found.counts["copied_bytes"] == 300 * len(pieces) + 900 * len(copies)
    assert found.counts["prefetch_abandoned"] == (last == [6])
    assert found.counts["prefetch_late"] == (last != [6])


def test_an_abandoned_prefetch_gives_its_slot_back(engine):
    """With one slot in layer 2 the demanded expert takes the place of the one whose last piece never came."""
    trace = rows([[0], [4], [6]], [[0], [4], [6]], **NINE_HUNDRED)
    found = timed(trace, PIECES, machine(**HOST_100), engine=engine, slots_per_layer=1)
    assert found.replay.device.cache_arrays["used"].tolist() == [900, 900, 900]
    assert found.counts["prefetch_abandoned"] >= 1


def test_pieces_carry_all_bytes(engine):
    """1000 bytes in 3 pieces: 333 + 333 + 334 bytes, timed as the largest, 334 ns each, in the host time of layer 1."""
    found = timed(
        rows([[0], [5]]), fetching(first=5, pieces=3), machine(host_s_per_layer=2e-6), engine=engine, slots_per_layer=4,
        start="warm",
    )  # fmt: skip
    assert found.slices("prefetch") == [(13, 2000, 2334), (13, 2334, 2668), (13, 2668, 3002)]
    assert found.counts["copied_bytes"] == 1000
    assert found.latency_ns == [4000]


def test_every_piece_is_a_copy_with_its_own_latency(engine):
    found = timed(
        rows([[0], [5]]), fetching(first=5, pieces=2),
        machine(host_s_per_layer=2e-6, link_latency_s=50e-9, link_half_bytes=20.0, copies_per_expert=2), engine=engine,
        slots_per_layer=4, start="warm",
    )  # fmt: skip
    assert found.slices("prefetch") == [(13, 2000, 2640), (13, 2640, 3280)]  # 100 + 500 + 40


@pytest.mark.parametrize(
    ("write_back", "latency_ns", "back"),
    [
        ("none", [1000, 1000, 1000], []),
        ("serial", [1000, 3000, 3000], [(1, 1000, 3000), (2, 4000, 6000)]),
        # the link is free again only when the victim of step 1 is home, 1000 ns into step 2
        ("overlap", [1000, 1000, 2000], [(1, 1000, 3000), (2, 3000, 5000)]),
    ],
)
def test_victims_go_home(engine, write_back, latency_ns, back):
    """One slot, three experts; a victim takes 2000 ns the other way."""
    policy, hardware = replace(BARE, write_back=write_back), machine(link_back_bytes_per_s=5e8)
    found = timed(rows([[0]], [[1]], [[2]]), policy, hardware, engine=engine, slots_per_layer=1)
    assert found.latency_ns == latency_ns
    assert found.slices("back") == back
    assert found.spent() == {"link": sum(latency_ns)}
    assert found.counts["written_back_bytes"] == 1000 * len(back)
    assert found.counts["evictions"] == 2


def test_home_is_as_far_as_the_device_where_no_rate_is_stated(engine):
    policy = replace(BARE, write_back="serial")
    hardware = machine(link_latency_s=100e-9, link_half_bytes=50.0, copies_per_expert=2)
    found = timed(rows([[0]], [[1]]), policy, hardware, engine=engine, slots_per_layer=1)
    assert found.latency_ns == [1300, 2600]


@pytest.mark.parametrize(("slots", "total_ns"), [(1, 9200), (2, 7400), (3, 6400), (4, 6200)])
def test_staging_slots_bound_how_far_copies_run_ahead(engine, slots, total_ns):
    """No cache; one expert serves 10 tokens (4000 ns), then three of one token each (400 ns), copies of 1000 ns.

    1 slot: copy and run four times. 2: B arrives while A runs, C can start at 5000 only, D at 6000 when C has come and
    B has run. 3: C too arrives while A runs, D starts at 5000.
    4: all have come when A ends.
    """
    trace = rows(*([[[0]]] * 10), [[1]], [[2]], [[3]], prompt=13)
    hardware = machine(gpu_flops_per_s=2.5e9, staging_slots=slots)
    found = timed(trace, "on_demand", hardware, engine=engine)
    assert found.latency_ns == [total_ns]
    assert found.parts_ns["expert"] == 5200
    assert found.counts["overflow_steps"] == 1


@pytest.mark.parametrize(("slots", "total_ns"), [(1, 3000), (2, 3000)])
def test_a_prompt_above_the_capacity_streams_what_it_does_not_keep(engine, slots, total_ns):
    """Slots for 2 of 3 experts: 0 passes by in a staging slot, 1 and 2 stay; nothing waits for a slot here."""
    hardware = machine(staging_slots=slots)
    trace = rows([[0]], [[1]], [[2]], prompt=3)
    found = timed(trace, "lru", hardware, engine=engine, slots_per_layer=2)
    assert found.latency_ns == [total_ns]
    assert found.replay.device.residents()[0].nonzero()[0].tolist() == [1, 2]


LOW = replace(BARE, name="low", substitution=LowUntil(steps=2))


def test_low_precision_is_copied_faster_and_expanded(engine):
    """4 of 16 bits: 250 ns; expanding to 1000 bytes takes 1000 ns, also on a hit; then the full one takes its place."""
    trace = rows([[0]], [[0]], [[0]], [[0]])
    found = timed(trace, LOW, machine(dequantise_bytes_per_s=1e9), engine=engine, slots_per_layer=1)
    assert found.latency_ns == [250 + 1000, 1000, 1000, 0]
    assert found.spent() == {"expert": 2000, "link": 1250}
    assert found.counts["copied_bytes"] == 250 + 1000
    assert [found.counts[name] for name in ("degrades", "fetches", "hits")] == [1, 1, 2]
    assert found.replay.device.cache_arrays["used"].tolist() == [1000]


def test_more_low_precision_experts_fit_a_slot(engine):
    """Four of 250 bytes lie in one slot; the fifth takes the place of the least recent one."""
    trace = rows(*([[[expert]] for expert in (0, 1, 2, 3, 0, 4, 0)]))
    policy = replace(LOW, substitution=LowUntil(steps=9))
    found = timed(trace, policy, machine(dequantise_bytes_per_s=1e18), engine=engine, slots_per_layer=1)
    assert found.latency_ns == [250, 250, 250, 250, 0, 250, 0]
    assert found.counts["evictions"] == 1


@pytest.mark.parametrize(("on_arrival", "latency_ns", "link_ns"), [(True, 2400, 1600), (False, 2800, 2000)])
def test_loaded_experts_run_on_arrival_or_after_the_last_copy(engine, on_arrival, latency_ns, link_ns):
    """Two copies of 1000 ns; each expert runs for 400 ns."""
    hardware = machine(gpu_memory_bytes_per_s=2.5e9, run_on_arrival=on_arrival)
    found = timed(rows([[0, 1]]), "lru", hardware, engine=engine, slots_per_layer=2)
    assert found.latency_ns == [latency_ns]
    assert found.spent() == {"expert": 800, "link": link_ns}


@pytest.mark.parametrize(("on_arrival", "latency_ns", "first_run_ns"), [(True, 4400, 1000), (False, 4800, 2000)])
def test_a_copy_that_waits_for_a_slot_is_not_waited_for(engine, on_arrival, latency_ns, first_run_ns):
    """Four misses, two staging slots, the cache's one slot for the last: after two copies the third needs a buffer.

    Waiting for all: 0 and 1 run from 2000 on, 2 comes from 2400 to 3400, 3 to 4400.
    """
    hardware = machine(gpu_memory_bytes_per_s=2.5e9, run_on_arrival=on_arrival, staging_slots=2)
    found = timed(rows([[0, 1, 2, 3]]), "lru", hardware, engine=engine, slots_per_layer=1)
    assert found.latency_ns == [latency_ns]
    assert min(begin_ns for _, begin_ns, _ in found.slices("expert")) == first_run_ns
    assert found.spent() == {"expert": 1600, "link": latency_ns - 1600}
