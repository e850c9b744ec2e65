"""The CUDA back end on stand-ins for torch.cuda: what a machine without a GPU can test of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sim.execution.forced import ForcedEngine
from sim.execution.run import executed_blocks, fresh, run_forced
from sim.execution.settings import RealSettings
from tests.sim.execution import stand_in_cuda
from tests.support.devices import FAST, policy_of, real_replay
from tests.support.random_traces import random_trace

TRACE = random_trace(3, 3, 8, 2, prompts=(9, 4), decodes=(25, 20))
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("policy", ["lru", "random", "cpu", "prefetch"])
def test_it_computes_what_the_cpu_computes(policy, pinned, monkeypatch):
    plain = RealSettings(**FAST)
    expected = run_forced(real_replay(TRACE, policy_of(policy), plain, slots_per_layer=3), plain)
    stand_in_cuda.install(monkeypatch)
    sizes = RealSettings(device="cuda", pinned=pinned, **FAST)
    run = run_forced(real_replay(TRACE, policy_of(policy), sizes, slots_per_layer=3), sizes)
    np.testing.assert_array_equal(run.columns["checksum"], expected.columns["checksum"])
    if policy in ("lru", "random"):
        np.testing.assert_array_equal(run.columns["evictions"], expected.columns["evictions"])
    parts = sum(run.columns[name] for name in run.columns if name.endswith("_ns") and "queue" not in name)
    np.testing.assert_array_equal(parts, 2 * run.columns["latency_ns"])


def test_a_copy_waits_for_what_still_reads_its_slot(monkeypatch):
    stand_in_cuda.install(monkeypatch)
    sizes = RealSettings(device="cuda", **FAST)
    replay = real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3)
    with ForcedEngine(replay.spec, sizes, resets=False) as engine:
        for _ in executed_blocks(replace(replay, reader=fresh(replay.reader), engine=engine), sizes):
            pass
        backend = engine.executor.backend
        first_copies = len({slot for slot in engine.executor.slots.slot_of.tolist() if slot >= 0})
        copies = len(engine.executor.link.copies)
        assert len(backend.copying.waits) >= copies - first_copies - engine.spec.staging_slots > 0
        assert all(event in backend.last_use.values() for event in backend.copying.waits)
