"""The textbook model and the engine agree on hits and on the final nanosecond."""

import numpy as np
import pytest

from scripts.textbook_simpy import Textbook, Times
from sim.metrics import StepTable
from tests.sim.replays import machine, replay_of
from tests.traces_for_tests import random_trace, routed


def test_by_hand():
    """One layer, two slots: A B waits 2 copies and runs 1 expert after them, A C runs A behind the copy of C."""
    hits, end_ns = Textbook(1, 2, Times(layer_ns=5, expert_ns=30, copy_ns=100)).run(np.array([[[0, 1]], [[0, 2]]]))
    assert hits == 1
    assert end_ns == (5 + 200 + 30) + (5 + 100 + 30)


@pytest.mark.parametrize("slots", [2, 3, 5, 8])
@pytest.mark.parametrize("bytes_per_s", [0.6e9, 3e9])
def test_equals_the_engine_to_the_nanosecond(slots, bytes_per_s):
    trace = random_trace(slots, num_layers=4, prompts=(0,), decodes=(200,))
    hardware = machine(gpu_memory_bytes_per_s=bytes_per_s, host_s_per_layer=7e-7)
    replay = replay_of(trace, "lru", hardware, slots_per_layer=slots)
    table = StepTable(replay)
    table.run()
    columns = table.columns()
    durations = replay.durations
    times = Times(durations.host_ns, int(durations.expert_ns[0, 1]), int(durations.copy_ns[0]))
    hits, end_ns = Textbook(4, slots, times).run(np.asarray(trace.topk_ids))
    assert hits == columns["hits"].sum() > 0
    assert end_ns == columns["latency_ns"].sum()


def test_two_requests_share_a_cache_as_in_the_engine():
    ids = np.array([[[0, 1]], [[2, 1]], [[1, 3]], [[0, 1]]])
    replay = replay_of(routed(ids, 4, [0, 0], [2, 2]), "lru", machine(gpu_memory_bytes_per_s=4e9), slots_per_layer=3)
    table = StepTable(replay)
    table.run()
    assert Textbook(1, 3, Times(0, 250, 1000)).run(ids) == (
        table.columns()["hits"].sum(),
        table.columns()["latency_ns"].sum(),
    )
