"""OD-MoE on the simulated cluster: schedules worked out by hand, then the published numbers."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sim.machine.model import MODEL_FOLDER
from sim.systems.od_moe.config import system_from_config
from sim.systems.od_moe.decode import Decode
from sim.systems.od_moe.prefill import Prefill, even_demand, routed_demand, serial_ns
from sim.systems.od_moe.recall import measured_recall, published_recall, recall_by_step, wrong_loads
from sim.systems.od_moe.requests import requests, serve
from sim.systems.od_moe.run import run
from sim.systems.od_moe.times import Times, all_gpu_bytes, all_gpu_s, memory_bytes, sizes, tabulate
from tests.support.random_traces import random_trace
from traces.errors import UserError

CONFIG: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(MODEL_FOLDER.parent / "system" / "od_moe.yaml"))
SYSTEM, SOURCES = system_from_config(CONFIG)
NO_NETWORK = {"message_ns": 0, "latency_ns": 0}


def times_of(**changes: Any) -> Times:
    """Eight layers, 4 groups of 2 workers; t_M = 10, an expert 5, a message 1 and a latency 2, a load 30."""
    figures: dict[str, Any] = {
        "num_layers": 8,
        "num_experts": 8,
        "top_k": 2,
        "num_groups": 4,
        "expert_bytes": 100,
        "load_ns": 30,
        "main_ns": 10,
        "kv_ps": 0,
        "head_ns": 0,
        "expert_ns": 5,
        "message_ns": 1,
        "latency_ns": 2,
        "shadow_ns": 1,
        "align_token_ns": 0,
        "align_kv_ns": 0,
        "flop_ns_per_token": 0.0,
        "main_flop_ns_per_token": 0.0,
    }
    return Times(**(figures | changes))


def decoded(times: Times, steps: int = 1, wrong: Any = None, **options: Any) -> Decode:
    """A finished decode run; by default every prediction is right and known at once."""
    told = np.zeros((steps, times.num_layers, times.top_k), bool)
    if wrong is not None:
        told[wrong] = True
    knobs = {"token_period": 0, "kv_period": 0} | options
    decode = Decode(times, told, 0, **knobs)
    decode.run()
    return decode


def test_t_w_and_the_deadline_by_hand():
    times = times_of()
    assert times.worker_ns == 3 * 1 + 2 * 2 + 5
    assert times.deadline_ns == 4 * 10 + 3 * 12


@pytest.mark.parametrize("excess", [-1, 0, 1, 7])
def test_a_load_up_to_the_deadline_is_hidden_and_a_longer_one_stalls_by_the_difference(excess):
    times = times_of(**NO_NETWORK)
    assert times.deadline_ns == 4 * 10 + 3 * 5
    decode = decoded(replace(times, load_ns=times.deadline_ns + excess), steps=3)
    # The first group has had no time to load before layer 0; from then on it has 4 t_M + 3 t_W for every load.
    steady = decode.stall_ns.ravel()[4:]
    assert steady[::4].tolist() == [max(0, excess)] * 5
    assert not steady.reshape(-1, 4)[:, 1:].any()


def test_travelling_hidden_states_lengthen_the_deadline_by_a_message_and_a_latency_each_way():
    times = times_of()
    # The slower worker of a group gets its hidden state after two messages and sends its result in one.
    longest = times.deadline_ns + (2 + 2) + (1 + 2)
    assert not decoded(replace(times, load_ns=longest), steps=2).stall_ns.ravel()[4:].any()
    assert decoded(replace(times, load_ns=longest + 2), steps=2).stall_ns.ravel()[4:].any()


def test_groups_take_layers_in_turn_across_tokens():
    times = times_of(num_layers=6)
    spans: list[Any] = []
    decoded(times, steps=2, timeline=spans)
    computed = sorted((begin, track) for track, what, begin, _ in spans if track.endswith("GPU"))
    groups = [int(track.split()[1]) // 2 for _, track in computed]
    assert groups == [s % 4 for s in range(12) for _ in range(2)]


def test_known_at_once_and_quickly_loaded_a_token_takes_only_t_m_and_t_w():
    times = times_of(load_ns=8, head_ns=3)  # shorter than t_M, so that even layer 0 is ready
    decode = decoded(times, steps=2)
    assert np.diff(decode.step_end_ns, prepend=0).tolist() == [8 * (10 + 12) + 3] * 2
    assert decode.outcomes == {"hit": 32, "late": 0, "miss": 0}
    assert not decode.stall_ns.any()


def test_without_prediction_every_layer_waits_for_a_whole_load():
    decode = decoded(times_of(), steps=2, predicts=False)
    assert decode.step_end_ns == [8 * (10 + 12 + 30), 16 * (10 + 12 + 30)]
    assert decode.outcomes == {"hit": 0, "late": 0, "miss": 32}


def test_one_wrong_expert_costs_one_load_and_two_of_one_group_cost_no_more():
    times, short = times_of(load_ns=8), 8 * 22
    one, both = decoded(times, wrong=(0, 5, 1)), decoded(times, wrong=(0, 5))
    assert one.step_end_ns == both.step_end_ns == [short + 8]
    assert (one.loads, both.loads) == (16 + 1, 16 + 2)


def test_a_wrong_load_still_running_is_given_up_or_finished():
    times = times_of(load_ns=40)
    # Layer 0: its hidden states arrive at 10 + 1 + 2 and 10 + 2 + 2; the announced load began at 0.
    given_up, finished = decoded(times, wrong=(0, 0)), decoded(times, wrong=(0, 0), abort=False)
    assert given_up.stall_ns[0, 0] == 40
    # Both workers are ready at 80 and their results queue for one message.
    assert finished.stall_ns[0, 0] == (80 - 14) + 1
    assert given_up.loaded_ns < finished.loaded_ns


def test_an_aligned_shadow_waits_for_the_last_token_and_a_free_one_does_not():
    times = times_of(load_ns=20, shadow_ns=1, align_kv_ns=50)
    free = decoded(times, steps=2, shadow_ns=1)
    token = decoded(times, steps=2, shadow_ns=1, token_period=1)
    both = decoded(times, steps=2, shadow_ns=1, token_period=1, kv_period=1)
    assert free.step_end_ns[0] == token.step_end_ns[0] == both.step_end_ns[0]
    assert free.stall_ns[1, 0] == 0
    # Token alignment takes one latency, the shadow's layer 0 one more ns, the loads 20; the later hidden state arrives
    # after 14, and results that are ready together queue for one message.
    assert token.stall_ns[1, 0] == (2 + 1 + 20) - 14 + 1
    # K and V hold the network card for 50; the hidden states of layer 0 queue behind them. The shadow names layer 0 at
    # 50 + 2 + 1, the loads end at 73, results are back at 73 + 5 + 2 + 2, where t_M + t_W is 22.
    assert both.stall_ns[1, 0] == 82 - 22


def test_prefill_of_one_token_by_hand():
    times = times_of(num_layers=2, num_experts=2, num_groups=1)
    tokens, demand = even_demand(1, 4, times)
    assert tokens.tolist() == [1]
    assert demand.shape == (1, 2, 2)
    # The loads of layer 0 end at 30, its experts at 35, those of layer 1 at 35 + 30 + 5: messages travel meanwhile.
    # Then two results leave one after the other, and travel for one latency.
    assert Prefill(times, 2, tokens, demand).run() == 35 + 30 + 5 + 2 * 1 + 2
    # One after the other: attention, load, two messages out, expert, two messages back.
    assert serial_ns(times, 2, tokens, demand) == 2 * (10 + 30 + (2 + 2) + 5 + (2 + 2))


def test_a_prompt_loads_what_it_uses_with_more_experts_than_workers_in_rounds():
    times = times_of(num_layers=1, main_ns=0, message_ns=0, latency_ns=0)
    ids = np.array([[[0, 2]], [[2, 4]]])  # [n, L, K]: experts 0, 2 and 4 run on worker 0 of 2
    tokens, demand = routed_demand(ids, 1, 8)
    assert demand[0, 0].tolist() == [1, 0, 2, 0, 1, 0, 0, 0]
    prefill = Prefill(times, 2, tokens, demand)
    assert prefill.run() == 3 * (30 + 5)
    assert prefill.loads == 3


@settings(max_examples=40, deadline=None)
@given(
    load=st.integers(0, 90),
    message=st.integers(0, 9),
    latency=st.integers(0, 9),
    shadow=st.integers(0, 20),
    periods=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    abort=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stall_and_work_add_up_and_prediction_never_loses_to_none(load, message, latency, shadow, periods, abort, seed):
    times = times_of(load_ns=load, message_ns=message, latency_ns=latency, head_ns=4)
    wrong = np.random.default_rng(seed).random((3, 8, 2)) < 0.5
    decode = Decode(times, wrong, 0, shadow_ns=shadow, token_period=periods[0], kv_period=periods[1], abort=abort)
    step_ns = decode.run()
    assert (step_ns == 8 * (10 + times.worker_ns) + 4 + decode.stall_ns.sum(axis=1)).all()
    assert (decode.stall_ns >= 0).all()
    assert sum(decode.outcomes.values()) == wrong.size
    assert decode.outcomes["miss"] >= wrong.sum()
    if abort:
        assert decode.step_end_ns[-1] <= decoded(times, steps=3, predicts=False).step_end_ns[-1]


def test_published_recall_by_hand():
    aligned = published_recall(SYSTEM, 300)
    assert aligned.tolist() == [SYSTEM.aligned_recall_int8] * 300
    never = published_recall(replace(SYSTEM, token_period=0, kv_period=0), 300)
    assert never[0] == SYSTEM.aligned_recall_int8
    assert never[255] == pytest.approx(0.30, abs=0.002)  # arXiv 2512.03927: about 30 % by token 256
    assert never[:256].mean() == pytest.approx(0.45, abs=0.002)  # and about 45 % on average
    fourth = published_recall(replace(SYSTEM, kv_period=4), 8)
    assert fourth[[0, 4]].tolist() == [SYSTEM.aligned_recall_int8] * 2
    assert fourth[3] < fourth[2] < fourth[1]


def test_a_random_prediction_is_right_as_often_as_chance():
    system = replace(SYSTEM, prediction="random")
    recall = recall_by_step(system, 200, 2, 8)
    wrong = wrong_loads(system, recall, 32, 2, 8, 0)
    assert 1 - wrong.mean() == pytest.approx(0.25, abs=0.01)
    assert (~wrong).all(axis=2).mean() == pytest.approx(1 / 28, abs=0.01)  # both of two out of eight


def test_measured_recall_has_its_origin_and_refuses_other_periods():
    system = replace(SYSTEM, recall="measured", precision="int4")
    aligned, alone = (measured_recall(replace(system, token_period=p, kv_period=p), 400) for p in (1, 0))
    assert alone[150] < alone[0] <= aligned[0]
    assert aligned[:192].min() > alone[100:192].max()
    with pytest.raises(UserError, match="kv_period=4"):
        measured_recall(replace(system, kv_period=4), 10)


def test_memory_sums_and_is_near_the_published():
    model = sizes(SYSTEM, None)
    parts = memory_bytes(SYSTEM, model, 384)
    assert parts["total"] == parts["main"] + parts["shadow"] + parts["workers"]
    assert parts["workers"] == 8 * 3 * 4096 * 14336 * 4
    assert parts["total"] / 60e9 == pytest.approx(1, abs=0.1)
    assert all_gpu_bytes(model) / 180e9 == pytest.approx(1, abs=0.1)
    assert memory_bytes(replace(SYSTEM, prediction="none"), model, 384)["shadow"] == 0


def rate(**changes: Any) -> float:
    system = replace(SYSTEM, prompt_tokens=16, new_tokens=129, **changes)
    times = tabulate(system, sizes(system, None))
    served = serve(system, times, requests(system, times, None)[0], 0)
    return 1e9 / float(served.step_ns.mean())


@pytest.mark.slow
def test_the_ablation_keeps_the_published_order():
    rates = [
        rate(),
        rate(kv_period=0),
        rate(token_period=0),
        rate(token_period=0, kv_period=0),
        rate(prediction="random"),
        rate(prediction="none"),
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(3.616, rel=0.1)  # a prediction
    assert rates[4] == pytest.approx(1.046, rel=0.1)  # a prediction
    assert rates[5] == pytest.approx(1.032, rel=0.005)  # fitted
    assert rate(prediction="perfect") > rate(fixed_recall=1.0) > rates[0]


def test_fitted_host_time_of_the_library_gives_the_all_gpu_rate():
    assert 1 / all_gpu_s(SYSTEM, sizes(SYSTEM, None)) == pytest.approx(4.89, rel=0.001)


def test_every_figure_of_the_yaml_has_a_source():
    numbers = {name for name, value in CONFIG.items() if isinstance(value, float)} - {"weight_bits"}
    assert numbers <= set(SOURCES)
    assert CONFIG["name"] == "od_moe"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": 1}, "system.workers=1"),
        ({"precision": "int4"}, "system.precision=int4"),
        ({"fixed_recall": 1.5}, "system.fixed_recall=1.5"),
        ({"prompt_tokens": 5}, "system.new_tokens=None"),
        ({"link_bytes_per_s": 0.0}, "above 0"),
        ({"wokers": 8}, "workers"),
        ({"prediction": "oracle"}, "system.prediction=oracle"),
        ({"workload": "trace"}, "no trace"),
        ({"sources": {"link_bytes_per_s": "someone said so"}}, "begins with"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(changes, words, tmp_path):
    with pytest.raises(UserError, match=words):
        run(CONFIG | changes, None, tmp_path, False)


def test_a_run_writes_its_files_and_the_same_bytes_again(tmp_path):
    config = CONFIG | {"prompt_tokens": 4, "new_tokens": 4}
    words = run(config, None, tmp_path / "a", True)
    run(config, None, tmp_path / "b", False)
    assert "SIMULATED" in words
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()
    events = json.loads((tmp_path / "a" / "timeline.json").read_text())["traceEvents"]
    ends: dict[int, float] = {}
    for event in sorted((e for e in events if e["ph"] == "X"), key=lambda e: (e["tid"], e["ts"])):
        assert event["ts"] >= ends.get(event["tid"], 0.0) - 1e-6  # a track does one thing at a time
        ends[event["tid"]] = event["ts"] + event["dur"]
    assert not (tmp_path / "b" / "timeline.json").exists()
    assert "system.network_latency_s" in json.loads((tmp_path / "a" / "provenance.json").read_text())["estimated"]


def test_a_trace_gives_prompts_steps_and_sizes(tmp_path):
    trace = random_trace(0)
    config = CONFIG | {"workload": "trace", "model": "trace"}
    run(config, trace, tmp_path, False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_requests"] == trace.num_requests
    assert metrics["num_tokens"] == int((trace.phase == 1).sum())
    with pytest.raises(UserError, match="take system"):
        run(config | {"model": "mixtral_8x7b"}, trace, tmp_path, False)
