"""Experts on the CPU, alone: its own time, the wait for it, and how it and the link slow each other down.

``machine()`` copies 1000 bytes in 1000 ns, computes an expert on the CPU in 500 ns and does everything else in no time.
"""

from dataclasses import replace

import pytest

from policies.assignment.cpu_only import CpuOnly
from tests.support.fixed_rules import FetchRow, LastOnCpu, Silent
from tests.support.replays import BARE, machine
from tests.support.timelines import TIMED, rows, timed

pytestmark = pytest.mark.parametrize("engine", TIMED)
CPU_ONLY = replace(BARE, name="cpu_only", assignment=CpuOnly())


def last_on_cpu(count):
    return replace(BARE, name="last_on_cpu", assignment=LastOnCpu(count))


@pytest.mark.parametrize("misses", [1, 2, 3])
def test_the_cpu_computes_one_expert_after_the_other(engine, misses):
    found = timed(rows([list(range(misses))]), CPU_ONLY, engine=engine)
    assert found.latency_ns == [500 * misses]
    assert found.spent() == {"cpu": 500 * misses}
    assert found.slices("cpu") == [(i, 500 * i, 500 * (i + 1)) for i in range(misses)]
    assert found.counts["copied_bytes"] == 0
    assert not found.replay.device.residents().any()


@pytest.mark.parametrize(("tokens", "cpu_ns"), [(1, 2000), (2, 2000), (3, 3000)])
def test_the_cpu_reads_its_weights_or_computes(engine, tokens, cpu_ns):
    """1000 bytes at 0.5 byte/ns; 1000 FLOP per token at 1 FLOP/ns."""
    hardware = machine(cpu_memory_bytes_per_s=5e8, cpu_core_flops_per_s=1e9)
    found = timed(rows(*([[[3]]] * tokens), prompt=tokens), CPU_ONLY, hardware, engine=engine)
    assert found.latency_ns == [cpu_ns]


def test_the_gpu_waits_for_the_cpu_when_its_own_work_is_done(engine):
    """Shared experts of 300 ns and one resident expert of 100 ns run beside 500 ns on the CPU."""
    trace = rows([[0, 5]], shared_bytes=(300,), weight_bits=None, expert_bytes=(100,))
    hardware = machine(gpu_memory_bytes_per_s=1e9, cpu_ratio=5.0)
    found = timed(trace, CPU_ONLY, hardware, engine=engine, start="warm", slots_per_layer=1)
    assert found.latency_ns == [500]
    assert found.spent() == {"expert": 400, "cpu": 100}


@pytest.mark.parametrize(
    ("ratio", "latency_ns", "spent"),
    [(0.5, 1000, {"link": 1000}), (1.0, 1000, {"link": 1000}), (3.0, 3000, {"link": 1000, "cpu": 2000})],
)
def test_link_and_cpu_work_side_by_side(engine, ratio, latency_ns, spent):
    """One miss over the link (1000 ns), one on the CPU."""
    found = timed(rows([[0, 1]]), last_on_cpu(1), machine(cpu_ratio=ratio), engine=engine)
    assert found.latency_ns == [latency_ns]
    assert found.spent() == spent


def test_the_balanced_split_ends_together(engine):
    """Six misses, the CPU twice as fast as the link: two copies beside four experts on the CPU."""
    trace = rows([[0, 1, 2, 3, 4, 5]])
    found = timed(trace, last_on_cpu(4), engine=engine)
    assert found.latency_ns == [2000]
    assert found.slices("cpu")[-1][2] == found.slices("copy")[-1][2] == 2000
    for other in (3, 5):
        assert timed(trace, last_on_cpu(other), engine=engine).latency_ns[0] > 2000


SLOWED = {"link_contention": 2.0, "cpu_contention": 3.0}


@pytest.mark.parametrize(
    ("on_cpu", "copies", "cpu"),
    [
        (0, [(0, 0, 1000), (1, 1000, 2000), (2, 2000, 3000), (3, 3000, 4000)], []),
        # both start at the lookup and slow each other; later copies find the CPU idle
        (1, [(0, 0, 2000), (1, 2000, 3000), (2, 3000, 4000)], [(3, 0, 1500)]),
        # the second CPU expert starts at 1500 beside a copy that ends at 2000, the second copy beside it: all slowed
        (2, [(0, 0, 2000), (1, 2000, 4000)], [(2, 0, 1500), (3, 1500, 3000)]),
        # the third CPU expert starts at 3000, 1000 after the only copy has ended: 500 ns
        (3, [(0, 0, 2000)], [(1, 0, 1500), (2, 1500, 3000), (3, 3000, 3500)]),
        (4, [], [(0, 0, 500), (1, 500, 1000), (2, 1000, 1500), (3, 1500, 2000)]),
    ],
)
def test_contention_is_what_each_finds_when_it_starts(engine, on_cpu, copies, cpu):
    """A copy that starts while the CPU computes takes twice as long, a CPU expert that starts beside a copy thrice."""
    found = timed(rows([[0, 1, 2, 3]]), last_on_cpu(on_cpu), machine(**SLOWED), engine=engine)
    assert found.slices("copy") == copies
    assert found.slices("cpu") == cpu
    assert found.latency_ns == [max(end for _, _, end in copies + cpu)]
    assert found.replay.engine.link_busy_ns == sum(end - begin for _, begin, end in copies)
    assert found.replay.engine.cpu_busy_ns == sum(end - begin for _, begin, end in cpu)


def test_prefetches_and_cpu_experts_slow_each_other_too(engine):
    """The CPU's miss of layer 0 starts beside the copy of layer 0; the prefetch for layer 1 follows beside both."""
    policy = replace(last_on_cpu(1), prediction=Silent(), prefetch=FetchRow(layer=1, first=5))
    hardware = machine(**SLOWED, cpu_ratio=4.0)
    found = timed(rows([[4, 6], [5, 3]]), policy, hardware, engine=engine, start="warm", slots_per_layer=4)
    # copy 0-2000; CPU 4000 x 3; prefetch slowed 2000-4000; layer 1 begins at 12000 and hits
    assert found.slices("copy") == [(4, 0, 2000)]
    assert found.slices("prefetch") == [(13, 2000, 4000)]
    assert found.latency_ns == [12000]
    assert found.spent() == {"link": 2000, "cpu": 10000}


def test_victims_on_their_way_home_slow_the_cpu_only_before_their_replacement(engine):
    """Serial: the copy counts from the victim's start on. Overlap: once the copy has come, the CPU is alone."""
    policy = replace(last_on_cpu(2), write_back="overlap")
    hardware = machine(**SLOWED, link_back_bytes_per_s=1e9 / 9)
    found = timed(rows([[0, 1, 2]], [[3, 4, 5]]), policy, hardware, engine=engine, slots_per_layer=1)
    # step 1: 0 over the link 0-2000, 1 and 2 on the CPU 0-1500-3000; step 2 begins at 3000, victim home at 12000
    assert found.slices("back") == [(3, 3000, 12000)]
    assert found.slices("cpu")[2:] == [(4, 3000, 4500), (5, 4500, 6000)]
    serial = replace(policy, write_back="serial")
    found = timed(rows([[0, 1, 2]], [[3, 4, 5]]), serial, hardware, engine=engine, slots_per_layer=1)
    assert found.slices("copy")[1] == (3, 12000, 14000)
    assert found.latency_ns == [3000, 11000]


def test_the_gpus_experts_follow_the_cpus_where_the_runtime_has_them_take_turns(engine):
    """Shared experts of 300 ns and one resident expert of 100 ns beside, or behind, 500 ns on the CPU."""
    trace = rows([[0, 5]], shared_bytes=(300,), weight_bits=None, expert_bytes=(100,))
    hardware = machine(gpu_memory_bytes_per_s=1e9, cpu_ratio=5.0, cpu_overlaps_gpu=False)
    found = timed(trace, CPU_ONLY, hardware, engine=engine, start="warm", slots_per_layer=1)
    assert found.latency_ns == [900]
    assert found.spent() == {"expert": 400, "cpu": 500}


def test_copies_go_on_while_cpu_and_gpu_take_turns(engine):
    """700 ns on the CPU, then the 100 ns of the expert whose copy of 100 ns has long arrived."""
    trace = rows([[0, 1]], expert_bytes=(100,), weight_bits=None)
    hardware = machine(gpu_memory_bytes_per_s=1e9, cpu_memory_bytes_per_s=1e9 / 7, cpu_overlaps_gpu=False)
    found = timed(trace, last_on_cpu(1), hardware, engine=engine)
    assert found.latency_ns == [800]
    assert found.spent() == {"expert": 100, "cpu": 700}
