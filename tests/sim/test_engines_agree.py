"""The SimPy engine and the compiled one: every decision, every timestamp, on everything both support."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eviction.belady import Belady
from sim.metrics import StepTable
from tests.sim.odd_rules import CoinSide, Eager, Guess, InPieces, Shake
from tests.sim.replays import BARE, POLICIES, machine, replay_of
from tests.traces_for_tests import random_trace

ODD = {
    "pieces": replace(POLICIES["prefetch"], name="pieces", prefetch=InPieces()),
    "pieces_end": replace(POLICIES["prefetch_end"], name="pieces_end", prefetch=InPieces()),
    "eager": replace(BARE, name="eager", prediction=Guess(), prefetch=Eager()),
    "shake": replace(BARE, name="shake", substitution=Shake()),
    "coin": replace(BARE, name="coin", assignment=CoinSide()),
    "all_odd": replace(
        BARE, name="all_odd", eviction=Belady(), prediction=Guess(), prefetch=Eager(), substitution=Shake(),
        assignment=CoinSide(),
    ),
}  # fmt: skip
RULES = POLICIES | ODD
"""Every policy that the tests know."""

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "policy": st.sampled_from(sorted(RULES)),
        "write_back": st.sampled_from(["none", "none", "serial", "overlap"]),
        "slots": st.integers(1, 8),
        "scope": st.sampled_from(["layer", "global"]),
        "start": st.sampled_from(["cold", "warm"]),
        "reset": st.sampled_from(["never", "request"]),
        "batch_size": st.integers(1, 3),
        "prefill_chunk": st.sampled_from([None, None, 1, 3]),
        "sizes": st.sampled_from([1000, [1000, 600, 1400]]),
        "bandwidth": st.sampled_from([1e8, 1e9, 7.3e9, 1e18]),
        "compute": st.sampled_from([3e8, 1.3e9, 1e10, 1e18]),
        "host_ns": st.sampled_from([0, 1, 300, 2000]),
        "call_ns": st.sampled_from([0, 20, 1000]),
        "staging_slots": st.integers(1, 3),
        "cpu": st.sampled_from([0.2, 0.5, 1.0, 3.0]),
        "contention": st.sampled_from([1.0, 1.7]),
        "memory": st.sampled_from(["pinned", "pageable", "staged"]),
    }
)


def drawn(case, engine, timeline=True):
    trace = random_trace(case["seed"], prompts=(4, 0, 2), decodes=(5, 6, 0), expert_bytes=case["sizes"])
    host_s = case["host_ns"] * 1e-9
    hardware = machine(
        link_bytes_per_s=case["bandwidth"], gpu_memory_bytes_per_s=case["compute"], host_s_per_layer=host_s,
        link_call_s=case["call_ns"] * 1e-9, staging_slots=case["staging_slots"], cpu_load_ratio=case["cpu"],
        launch_s=host_s / 10, kernels_per_expert=2, kernels_per_layer=3, readback_s=host_s / 7, sync_s=host_s / 5,
        link_contention=case["contention"], cpu_contention=case["contention"], dequantise_bytes_per_s=5e9,
        pageable_bytes_per_s=4e8, pageable_call_s=1e-8, staging_bytes_per_s=2e9, copies_per_expert=2,
    )  # fmt: skip
    policy = replace(RULES[case["policy"]], write_back=case["write_back"])
    return replay_of(
        trace, policy, hardware, engine=engine, timeline=timeline, time={"memory": case["memory"]},
        slots_per_layer=case["slots"], scope=case["scope"], start=case["start"], reset=case["reset"],
        batch_size=case["batch_size"], prefill_chunk=case["prefill_chunk"],
    )  # fmt: skip


def outcome(replay):
    """(per-step table, sorted slices of the timeline, metrics, what is resident at the end)."""
    table = StepTable(replay)
    table.run()
    log = replay.engine.take_log()
    return table.array(), log[np.lexsort(log.T[::-1])], table.metrics(), replay.device.residents()


def assert_engines_agree(case):
    simpy_engine, compiled = outcome(drawn(case, "simpy")), outcome(drawn(case, "compiled"))
    np.testing.assert_array_equal(simpy_engine[0], compiled[0])
    np.testing.assert_array_equal(simpy_engine[1], compiled[1])
    assert simpy_engine[2] == compiled[2]
    np.testing.assert_array_equal(simpy_engine[3], compiled[3])


@settings(max_examples=600, deadline=None)
@given(cases)
def test_engines_agree_to_the_nanosecond(case):
    assert_engines_agree(case)
