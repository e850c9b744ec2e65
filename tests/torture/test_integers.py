"""Whole numbers at the edge of 64 bits: a result, or one sentence; no product in compiled code overflows."""

from dataclasses import replace

import numpy as np
import pytest

from scripts.torture.claims import contradictions
from sim.config import RunConfig, TraceConfig, validate
from sim.execution.settings import RealSettings
from sim.workload.steps import Schedule
from tests.support.random_traces import random_trace
from tests.support.replays import machine, replay_of, run
from traces.errors import UserError

MOST = 2**63 - 1
TRACE = random_trace(0, prompts=(4, 3, 5), decodes=(5, 6, 4))


def steps(schedule):
    return [(block.rows.tolist(), block.group.tolist(), block.bounds.tolist()) for block in schedule.blocks()]


@pytest.mark.parametrize("most", [2**31, 2**53, 2**62, MOST])
def test_larger_batches_and_chunks_than_a_trace_has_are_those_that_it_has(most):
    whole = Schedule(TRACE, TRACE.num_requests, prefill_chunk=5)
    assert steps(Schedule(TRACE, most, prefill_chunk=most)) == steps(whole)
    assert Schedule(TRACE, most, prefill_chunk=most).num_steps() == whole.num_steps() == len(whole_steps(whole))
    assert steps(Schedule(TRACE, 2, prefill_chunk=most)) == steps(Schedule(TRACE, 2))


def whole_steps(schedule):
    return [phase for block in schedule.blocks() for phase in block.phase]


def test_blocks_hold_no_more_steps_than_asked_for_and_all_of_them():
    schedule = Schedule(TRACE, 2)
    small = list(schedule.blocks(1))
    assert max(len(block) for block in small) == 1
    assert np.concatenate([block.rows for block in small]).tolist() == steps(schedule)[0][0]


@pytest.mark.parametrize("engine", ["simpy", "compiled", "untimed"])
@pytest.mark.parametrize("size", [2**31, 2**53, 2**62])
@pytest.mark.parametrize(
    "field", ["expert_bytes", "attention_bytes", "shared_bytes", "other_bytes", "kv_bytes_per_token", "hidden_size"]
)
def test_every_size_of_a_trace_gives_a_result_or_a_sentence(field, size, engine):
    value = (size,) * TRACE.num_layers if isinstance(getattr(TRACE.geometry, field), tuple) else size
    trace = replace(TRACE, geometry=replace(TRACE.geometry, **{field: value}))
    hardware = machine(gpu_memory_bytes_per_s=1e12, gpu_flops_per_s=1e12, link_bytes_per_s=1e10)
    try:
        metrics = run(replay_of(trace, "importance", hardware, engine=engine, slots_per_layer=4))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert list(contradictions(metrics)) == []
        assert metrics["simulated_s"] is None or metrics["simulated_s"] > 0


def test_a_clock_that_would_run_over_is_noticed():
    slow = {"launch_s": 1e5, "kernels_per_layer": 60}
    with pytest.raises(UserError, match=r"more than the clock can count"):
        run(replay_of(TRACE, "lru", machine(link_bytes_per_s=1e-6, **slow)))
    assert run(replay_of(TRACE, "lru", machine(link_bytes_per_s=1e-3, **slow)))["simulated_s"] > 1e8
    large = random_trace(0, num_layers=20, num_experts=32)
    with pytest.raises(UserError, match=r"one step might take .* check the sizes"):
        replay_of(large, "lru", machine(link_bytes_per_s=1e-3, launch_s=1e5, kernels_per_expert=80))


def test_a_sum_that_leaves_64_bits_after_many_steps_is_noticed(monkeypatch):
    import sim.assembly.limits as limits

    replay = replay_of(TRACE, "lru", engine="compiled")
    monkeypatch.setattr(limits, "MOST", 2.0 * 3000)
    with pytest.raises(UserError, match="do not fit 64 bits any more"):
        run(replay)


@pytest.mark.parametrize(
    "figures",
    [{"link_contention": 1e300}, {"cpu_contention": 1e300}, {"kernels_per_layer": 2**53, "launch_s": 1e3}],
)
def test_factors_that_no_clock_can_count_are_refused(figures):
    with pytest.raises(UserError, match="more than the clock can count"):
        run(replay_of(TRACE, "cpu", machine(**figures), engine="compiled", slots_per_layer=4))


def test_buffers_and_bytes_without_end_are_as_many_as_can_be_used():
    plenty = run(replay_of(TRACE, "importance", machine(staging_slots=10**300), bytes=MOST, engine="compiled"))
    enough = run(replay_of(TRACE, "importance", machine(staging_slots=8), slots_per_layer=8, engine="compiled"))
    assert {**plenty, "capacity_bytes": 0} == {**enough, "capacity_bytes": 0}
    assert plenty["capacity_fraction"] == 1.0 and plenty["capacity_bytes"] > 2**62


@pytest.mark.parametrize("knob", [{"link_latency_s": 1e300}, {"link_bytes_per_s": 5e-324}])
def test_a_link_that_is_paced_for_ever_is_refused(knob):
    """Once a traceback of `calibrate`: no clock counts what a copy would wait."""
    with pytest.raises(UserError, match=next(iter(knob))):
        validate(RealSettings, knob)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**70, 10**400])
def test_larger_numbers_are_refused_by_name(value):
    with pytest.raises(UserError, match=r"batch_size=.*must be a whole number, below 2"):
        validate(RunConfig, {"batch_size": value})
    with pytest.raises(UserError, match=r"trace\.requests="):
        validate(TraceConfig, {"embedded": "demo", "requests": value}, "trace.")


def test_whole_numbers_stand_for_numbers_in_training(tmp_path, monkeypatch):
    """Once a traceback of the optimiser: `train.beta1=0` beside a `train.beta2` that is no whole number."""
    from scripts.torture.configuration import Case, Runner

    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "1")
    outcome, defect = Runner(tmp_path).run(Case("train-predictor", (), "train.beta1=0"))
    assert outcome in ("ran", "at work") and not defect
