"""The textbook model and the engine agree on hits and on the final nanosecond."""

import numpy as np
import pytest

from policies.assignment.two_pointer import TwoPointer
from policies.base import Policy
from policies.eviction.score_window import ScoreWindow
from policies.prediction.lookahead import Lookahead
from policies.prefetch.top_score import TopScore
from policies.substitution.score_band import ScoreBand
from scripts.benchmarks.textbook_simpy import Textbook, Times
from scripts.benchmarks.textbook_smoe import TextbookSmoe
from scripts.benchmarks.textbook_smoe import Times as SmoeTimes
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, TimeConfig
from sim.machine.capacity import CacheConfig
from sim.machine.parts import HOST
from sim.metrics.step_table import StepTable
from tests.support.random_traces import random_trace, routed
from tests.support.replays import machine, replay_of


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
    times = Times(int(durations.before_lookup_ns[HOST]), int(durations.expert_ns[0, 1]), int(durations.copy_ns[0]))
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


def run_both(trace, alpha, slots, machine_of):
    """(hits, ns, substitutions) of the engine, the same of the textbook model, and the engine's columns."""
    policy = Policy(
        "importance",
        ScoreWindow(),
        Lookahead(),
        TopScore(alpha=alpha),
        ScoreBand(alpha=alpha),
        TwoPointer(),
    )
    cache = CacheConfig(slots_per_layer=slots)
    replay = assemble(
        trace, DeviceSetup(policy, machine_of, cache, RunConfig(engine="simpy"), TimeConfig(cpu_transfer=False))
    )
    table = StepTable(replay)
    table.run()
    columns, durations = table.columns(), replay.durations
    assert durations.cpu_expert_ns is not None
    times = SmoeTimes(
        int(durations.before_lookup_ns[HOST]),
        int(durations.expert_ns[0, 1]),
        int(durations.copy_ns[0]),
        int(durations.cpu_expert_ns[0, 1]),
    )
    shape = (trace.num_layers, trace.num_experts)
    model = TextbookSmoe(shape, slots, times, alpha)
    scores = trace.gate_scores(0, trace.num_tokens)
    early = trace.lookahead_before.probabilities(0, trace.num_tokens, trace.num_experts)
    found = model.run(np.asarray(trace.topk_ids), scores, early)
    expected = (int(columns["hits"].sum()), int(columns["latency_ns"].sum()), int(columns["substituted_ranks"].sum()))
    return expected, (*found, model.substituted), columns


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.35, 0.8])
@pytest.mark.parametrize("slots", [8, 11])
@pytest.mark.parametrize("ratio", [0.1337, 0.4971, 3.07])
@pytest.mark.parametrize(("bytes_per_s", "outcome"), [(2.5e9, "prefetch_late"), (2.5e10, "prefetch_used")])
def test_four_part_policy_equals_the_engine_to_the_nanosecond(alpha, slots, ratio, bytes_per_s, outcome):
    """The policy written a second time, in sets and numpy, decides and times the same; no two instants coincide."""
    trace = random_trace(
        slots, num_layers=5, num_experts=24, top_k=4, prompts=(0,), decodes=(300,), expert_bytes=1_000_003
    )
    hardware = machine(
        link_bytes_per_s=bytes_per_s, gpu_memory_bytes_per_s=1e11, host_s_per_layer=1.0007e-4, cpu_ratio=ratio
    )
    expected, found, columns = run_both(trace, alpha, slots, hardware)
    assert found == expected
    assert columns[outcome].sum() > 0 and columns["hits"].sum() > 0
    assert (columns["substituted_ranks"].sum() > 0) == (alpha > 0.0)
