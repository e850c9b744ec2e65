"""The runtime's parts one by one: slots, layout, pacing, the load of the machine, the clock of a step."""

import itertools
import time

import numpy as np
import pytest
import torch

from policies.state import ABSENT, IN_FLIGHT, RESIDENT
from sim.execution.layout import ExpertLayout
from sim.execution.load import Load, RunQueue, Snapshot
from sim.execution.pacing import now_ns, paced_copy
from sim.execution.slots import find_place
from sim.execution.step_clock import StepClock
from sim.machine.parts import ATTENTION, HOST, PARTS


def test_a_slot_is_found_by_hand():
    """Slots 2 to 4 of one pool hold experts 7, 9 and 8; 9 has gone; 7 is arriving."""
    holder = np.array([1, 2, 7, 9, 8])
    status = np.full(12, ABSENT, np.uint8)
    status[[1, 2, 8]], status[7] = RESIDENT, IN_FLIGHT
    assert find_place(11, 2, 5, holder, status) == 3
    assert find_place(9, 2, 5, holder, status) == 3
    assert find_place(8, 2, 5, holder, status) == 4
    status[9] = RESIDENT
    assert find_place(11, 2, 5, holder, status) == -1
    assert find_place(11, 2, 6, np.append(holder, -1), status) == 5


def test_tensors_of_an_expert_lie_aligned_one_after_the_other():
    layout = ExpertLayout.of([((2, 3), torch.float32), ((5,), torch.bfloat16)])
    assert layout.offsets == (0, 64)
    assert layout.stride == 128
    arena = torch.zeros(3 * layout.stride, dtype=torch.uint8)
    first, second = layout.views(arena, 1)
    first.fill_(1.0)
    second.fill_(2.0)
    assert torch.equal(layout.views(arena, 1)[0], torch.ones(2, 3))
    assert not arena[: layout.stride].any()
    assert not arena[2 * layout.stride :].any()
    assert arena.count_nonzero() == 6 * 2 + 5  # 1.0 has two bytes that are not zero in float32, 2.0 one in bfloat16


@pytest.mark.parametrize("size", [1, 262_144, 262_145, 1_000_003])
def test_a_copy_brings_every_byte_and_nothing_beside(size):
    source = np.random.default_rng(0).integers(1, 255, size + 2, dtype=np.uint8)
    target = np.zeros(size + 2, np.uint8)
    paced_copy(target.ctypes.data + 1, source.ctypes.data + 1, size, now_ns(), 0, np.zeros(2, np.int64))
    np.testing.assert_array_equal(target[1:-1], source[1:-1])
    assert target[0] == target[-1] == 0


@pytest.mark.parametrize("duration_ns", [200_000, 3_000_000])
def test_a_paced_copy_ends_on_time_or_later(duration_ns):
    data = np.zeros(1_000_000, np.uint8)
    begin_ns = now_ns()
    end_ns = paced_copy(data.ctypes.data, data.ctypes.data, data.size, begin_ns, duration_ns, np.zeros(2, np.int64))
    assert begin_ns + duration_ns <= end_ns <= now_ns()


def test_load_is_what_others_did_per_core(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = Snapshot(wall_s=10.0, own_s=1.0, machine_s=100.0, steal_s=5.0)
    after = Snapshot(wall_s=12.0, own_s=2.5, machine_s=103.5, steal_s=5.4)
    load = Load.between(before, after)
    assert load.foreign_share == pytest.approx((3.5 - 1.5) / 4)
    assert load.steal_share == pytest.approx(0.4 / 4)
    assert load.disturbance == pytest.approx(0.6)


def test_unknown_load_is_none_not_zero():
    unknown = Snapshot(0.0, 0.0, None, None)
    load = Load.between(unknown, Snapshot(1.0, 0.5, 3.0, 0.0))
    assert load.foreign_share is None
    assert load.disturbance is None


def test_a_thread_that_does_not_exist_has_no_run_queue():
    queue = RunQueue(2**31 - 5)
    assert queue.read() == [None]
    queue.close()


class ByHand:
    """Stamps given beforehand."""

    def __init__(self, *stamps):
        self.left = list(stamps)

    def stamp(self):
        return self.left.pop(0)

    def elapsed_ns(self, stamps):
        return [after - before for before, after in itertools.pairwise(stamps)]


def test_a_steps_time_is_booked_by_hand():
    clock = StepClock(ByHand(100, 130, 131, 150, 190))
    clock.start()
    clock.mark(ATTENTION)
    clock.mark(HOST)
    clock.end_layer()
    clock.mark(ATTENTION)
    clock.end_layer()
    clock.mark(HOST)
    parts, layers = clock.finish()
    assert dict(zip(PARTS, parts, strict=True)) == dict.fromkeys(PARTS, 0) | {"attention": 49, "host": 41}
    assert layers == [31, 19]


def test_pacing_leaves_the_interpreter_to_others():
    """While a copy waits for its link another thread runs Python."""
    import threading

    data, counted = np.zeros(1000, np.uint8), []
    thread = threading.Thread(
        target=paced_copy,
        args=(data.ctypes.data, data.ctypes.data, data.size, now_ns(), 200_000_000, np.zeros(2, np.int64)),
    )
    thread.start()
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        counted.append(1)
    assert thread.is_alive()
    thread.join()
    assert len(counted) > 1000
