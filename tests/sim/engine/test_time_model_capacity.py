"""What the capacity does to the time: ways to give it, pools, starts, resets, splits; each total worked out by hand.

A miss costs 1000 ns (``machine()``), everything else nothing.
"""

from dataclasses import replace

import pytest

from policies.allocation.miss_curve import MissCurveSplit
from tests.support.replays import BARE, machine
from tests.support.timelines import TIMED, requests, rows, timed
from traces.errors import UserError

pytestmark = pytest.mark.parametrize("engine", TIMED)
CYCLE = rows(*([[[expert]] for expert in (0, 1, 2, 0, 1, 2)]), expert_bytes=(1000,))


@pytest.mark.parametrize(
    "capacity", [{"slots_per_layer": 3}, {"fraction": 3 / 8}, {"fraction": 0.49}, {"bytes": 3000}, {"bytes": 3999}]
)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_three_slots_hold_a_cycle_of_three(engine, capacity, scope):
    found = timed(CYCLE, "lru", engine=engine, scope=scope, **capacity)
    assert found.latency_ns == [1000, 1000, 1000, 0, 0, 0]


@pytest.mark.parametrize("capacity", [{"slots_per_layer": 2}, {"fraction": 0.25}, {"bytes": 2999}])
def test_two_slots_never_hit_a_cycle_of_three(engine, capacity):
    assert timed(CYCLE, "lru", engine=engine, **capacity).latency_ns == [1000] * 6


@pytest.mark.parametrize(("capacity", "second_ns"), [(1600, 0), (1599, 1600), (1000, 1600)])
def test_one_pool_holds_experts_of_different_sizes(engine, capacity, second_ns):
    """Layers of 1000 and 600 bytes take turns: 1600 bytes hold one of each, less makes each push the other out."""
    trace = rows([[0], [0]], [[0], [0]], expert_bytes=(1000, 600))
    found = timed(trace, "lru", engine=engine, scope="global", bytes=capacity)
    assert found.latency_ns == [1600, second_ns]


def test_a_small_expert_leaves_a_large_one_its_room_only_if_it_fits(engine):
    """1000 + 2 x 600 bytes in 2000: the third evicts the least recent, and that one is the large expert."""
    trace = rows([[0], [0]], [[0], [1]], [[0], [1]], expert_bytes=(1000, 600))
    found = timed(trace, "lru", engine=engine, scope="global", bytes=2000)
    # step 2: 0 of layer 0 hits; 1 of layer 1 evicts 0 of layer 1, which is older; step 3 hits
    assert found.latency_ns == [1600, 600, 0]


def test_bytes_are_cut_in_equal_slices(engine):
    trace = rows([[0], [0]], [[0], [0]], expert_bytes=(1000, 600))
    assert timed(trace, "lru", engine=engine, bytes=2000).latency_ns == [1600, 0]
    with pytest.raises(UserError, match="at least 1 slot is needed, and one expert of layer 0 takes 1000 bytes"):
        timed(trace, "lru", engine=engine, bytes=1600)


def test_a_layers_pool_is_its_own_the_global_one_is_shared(engine):
    """Layer 0 cycles over three experts, layer 1 uses one: four slots in one pool hold them all, two each do not."""
    trace = rows(*([[expert], [0]] for expert in (0, 1, 2, 0, 1, 2)))
    assert timed(trace, "lru", engine=engine, bytes=4000).latency_ns == [2000, 1000, 1000, 1000, 1000, 1000]
    assert timed(trace, "lru", engine=engine, bytes=4000, scope="global").latency_ns == [2000, 1000, 1000, 0, 0, 0]


def test_cold_and_warm(engine):
    """Warm: experts 0 and 1 of two slots are there; 2 evicts 0, as equal priorities evict the lowest."""
    trace = rows([[1]], [[2]], [[1]], [[0]])
    assert timed(trace, "lru", engine=engine, slots_per_layer=2).latency_ns == [1000, 1000, 0, 1000]
    assert timed(trace, "lru", engine=engine, slots_per_layer=2, start="warm").latency_ns == [0, 1000, 0, 1000]


@pytest.mark.parametrize(
    ("knobs", "latency_ns"),
    [
        ({}, [1000, 0, 0, 0, 0, 0]),
        ({"reset": "request"}, [1000, 0, 1000, 0, 1000, 0]),
        ({"reset": "request", "start": "warm"}, [0] * 6),
        ({"reset": "request", "batch_size": 2}, [1000, 0, 1000, 0]),
    ],
)
def test_a_reset_forgets_the_cache_of_the_batch_before(engine, knobs, latency_ns):
    trace = requests([[[[0]], [[0]]]] * 3, [0, 0, 0])
    assert timed(trace, "lru", engine=engine, slots_per_layer=1, **knobs).latency_ns == latency_ns


def test_the_miss_curve_gives_a_layer_the_slots_that_save_misses(engine):
    """Layer 0 always uses expert 0, layer 1 cycles over three: of four slots 1 + 3 miss once each, 2 + 2 for ever."""
    trace = rows(*([[0], [expert]] for expert in (0, 1, 2, 0, 1, 2, 0, 1, 2)))
    split = replace(BARE, name="split", allocation=MissCurveSplit())
    found = timed(trace, split, engine=engine, slots_per_layer=2, others=trace)
    assert found.replay.pools.capacity.tolist() == [1000, 3000]
    assert found.latency_ns == [2000, 1000, 1000, 0, 0, 0, 0, 0, 0]
    assert timed(trace, "lru", engine=engine, slots_per_layer=2).latency_ns == [2000] + [1000] * 8


def test_the_miss_curve_counts_bytes_where_experts_differ(engine):
    """Both layers cycle over two experts; 3200 bytes are 2 + 1 slots, and the second goes where experts are larger."""
    trace = rows(*([[expert], [expert]] for expert in (0, 1, 0, 1, 0, 1)), expert_bytes=(600, 1000))
    split = replace(BARE, name="split", allocation=MissCurveSplit())
    found = timed(trace, split, machine(), engine=engine, bytes=3200, others=trace)
    assert found.replay.pools.capacity.tolist() == [600, 2000]
    assert found.latency_ns == [1600, 1600, 600, 600, 600, 600]
