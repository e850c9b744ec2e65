"""Forced routing on a real device: the engines' decisions, the right bytes in every slot, times that add up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.assignment.link_only import LinkOnly
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from sim.engine.decision.counters import COUNTERS
from sim.execution.forced import ForcedEngine
from sim.execution.run import executed_blocks, fresh, run_forced
from sim.execution.settings import RealSettings
from sim.execution.synthetic import INPUTS, synthetic_model
from sim.machine.parts import PARTS
from sim.metrics.step_table import StepTable
from tests.support.devices import DEVICES, FAST, policy_of, real_replay
from tests.support.random_traces import random_trace
from tests.support.replays import POLICIES
from traces.errors import UserError

DEMAND_ONLY = ("lru", "lfu", "random", "belady", "belady_admit", "score_window", "on_demand", "all_resident")
SUBSTITUTES = replace(POLICIES["importance"], prediction=NoPrediction(), prefetch=NoPrefetch(), assignment=LinkOnly())
TRACE = random_trace(3, 3, 8, 2, prompts=(9, 4), decodes=(25, 20))


def small(device="cpu", **changes):
    return RealSettings(device=device, **(FAST | changes))


def simulated(trace, policy, sizes, engine, **knobs):
    table = StepTable(real_replay(trace, policy, sizes, engine=engine, **knobs))
    table.run()
    return table.columns()


def assert_decides_as(trace, policy, sizes, engines=("untimed", "simpy", "compiled"), **knobs):
    """Every count of every step of a real run is the engine's."""
    real = run_forced(real_replay(trace, policy, sizes, **knobs), sizes)
    for engine in engines:
        expected = simulated(trace, policy, sizes, engine, **knobs)
        for name in ("step", "group", "request", "phase", "num_tokens", *COUNTERS):
            np.testing.assert_array_equal(real.columns[name], expected[name], err_msg=f"{name}, {engine}")
    return real


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", DEMAND_ONLY)
def test_demand_only_policies_decide_as_every_engine_does(policy, device):
    assert_decides_as(TRACE, policy_of(policy), small(device), slots_per_layer=3)


@pytest.mark.parametrize("device", DEVICES)
def test_substitution_without_prefetch_decides_as_every_engine_does(device):
    real = assert_decides_as(TRACE, SUBSTITUTES, small(device), slots_per_layer=3)
    assert real.columns["substituted_ranks"].sum() > 0


@pytest.mark.parametrize("device", DEVICES)
def test_experts_on_the_cpu_decide_as_the_engines_do(device):
    real = assert_decides_as(TRACE, POLICIES["cpu"], small(device), ("simpy", "compiled"), slots_per_layer=3)
    assert real.columns["cpu"].sum() > 0


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "slots_per_layer": st.integers(1, 8),
            "scope": st.sampled_from(["layer", "global"]),
            "start": st.sampled_from(["cold", "warm"]),
            "reset": st.sampled_from(["never", "request"]),
            "batch_size": st.integers(1, 2),
            "prefill_chunk": st.sampled_from([None, 1, 3]),
            "seed": st.integers(0, 100),
        }
    ),
    st.sampled_from(["lru", "lfu", "random", "belady", "score_window"]),
)
def test_decisions_are_the_simulators_on_every_demand_only_machine(knobs, policy):
    trace = random_trace(knobs["seed"], 2, 8, 3, prompts=(5, 2), decodes=(4, 6))
    assert_decides_as(trace, policy_of(policy), small(), ("untimed",), **knobs)


def reference(real, trace, sizes, rows):
    """Checksums of single-token steps computed from the host's weights, as the router chose."""
    model = synthetic_model(sizes, trace.num_layers, trace.num_experts)
    checksums = []
    for row in rows:
        state = model.inputs[[row % INPUTS]]
        for layer in range(trace.num_layers):
            state = model.attention(layer, state)
            source = [
                model.source_of[layer * trace.num_experts + e] for e in sorted(trace.topk_ids[row, layer].tolist())
            ]
            outputs = [model.expert(state, model.layout.views(model.host.to(state.device), s)) for s in source]
            for output in outputs:
                state = state + output * (1.0 / trace.top_k)
        checksums.append(float(state.double().sum()))
    return np.array(checksums)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", ["lru", "random", "on_demand", "cpu", "prefetch", "prefetch_end"])
def test_outputs_are_those_of_the_hosts_weights(policy, device):
    """A copy to a wrong place, a slot overwritten too early or a wrong piece of one would change them."""
    sizes = small(device, hidden_size=64, expert_ffn=512, link_bytes_per_s=None)  # 0.4 MB: copies take a while
    trace = random_trace(5, 3, 8, 2, prompts=(0, 0), decodes=(60, 40))
    real = run_forced(real_replay(trace, policy_of(policy), sizes, slots_per_layer=2), sizes)
    expected = reference(real, trace, sizes, range(trace.num_tokens))
    np.testing.assert_allclose(real.columns["checksum"], expected, rtol=0, atol=0 if device == "cpu" else 1e-2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_batches_and_prompts_give_the_outputs_of_a_device_that_holds_everything(slots, device):
    sizes = small(device)
    few = run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=slots, batch_size=2), sizes)
    whole = run_forced(real_replay(TRACE, policy_of("all_resident"), sizes, batch_size=2), sizes)
    np.testing.assert_allclose(few.columns["checksum"], whole.columns["checksum"], rtol=0, atol=1e-3)
    assert few.columns["overflow_steps"].sum() > 0 or slots == 8


def test_every_resident_expert_lies_in_its_slot_at_the_end():
    sizes = small()
    replay = real_replay(TRACE, POLICIES["importance"], sizes, slots_per_layer=3, scope="global")
    with ForcedEngine(replay.spec, sizes, resets=False) as engine:
        for _ in executed_blocks(replace(replay, reader=fresh(replay.reader), engine=engine), sizes):
            pass
        with engine.executor.guard:
            engine.executor.link.hold()
        residents = np.flatnonzero(engine.device.residents().reshape(-1))
        layout, backend, slots = engine.model.layout, engine.executor.backend, engine.executor.slots
        assert residents.size > 0
        for key in residents.tolist():
            here = layout.views(backend.slots, int(slots.slot_of[key]))
            home = layout.views(backend.host, engine.model.source_of[key])
            assert all(torch.equal(a, b) for a, b in zip(here, home, strict=True))


def test_prefetched_pieces_arrive_whole():
    from tests.support.odd_rules import InPieces

    policy = replace(POLICIES["prefetch"], prefetch=InPieces())
    sizes = small(hidden_size=40, expert_ffn=50)  # not a multiple of the pieces
    trace = random_trace(5, 3, 8, 2, prompts=(0, 0), decodes=(60, 40))
    real = run_forced(real_replay(trace, policy, sizes, slots_per_layer=3), sizes)
    assert (real.copies[:, 1] < sizes.expert_bytes).any()
    np.testing.assert_array_equal(real.columns["checksum"], reference(real, trace, sizes, range(trace.num_tokens)))


@pytest.mark.parametrize("device", DEVICES)
def test_prefetches_end_once_and_outcomes_sum_to_the_demand(device):
    columns = run_forced(
        real_replay(TRACE, POLICIES["prefetch"], small(device), slots_per_layer=4), small(device)
    ).columns
    outcomes = sum(columns[name] for name in ("hits", "late", "fetches", "cpu", "substitutes", "drops", "degrades"))
    np.testing.assert_array_equal(outcomes, columns["demanded"])
    ended = sum(int(columns[f"prefetch_{name}"].sum()) for name in ("used", "late", "wasted", "abandoned"))
    assert columns["prefetch_copies"].sum() >= ended > 0


@pytest.mark.parametrize("device", DEVICES)
def test_every_nanosecond_has_a_part(device):
    real = run_forced(real_replay(TRACE, POLICIES["cpu"], small(device), slots_per_layer=3), small(device))
    parts = sum(real.columns[f"{part}_ns"] for part in PARTS)
    np.testing.assert_array_equal(parts, real.columns["latency_ns"])
    assert real.layer_ns.shape == (len(parts), TRACE.num_layers)
    assert (real.layer_ns > 0).all()
    assert (real.layer_ns.sum(axis=1) <= parts).all()
    assert real.label == "MEASURED"


def test_a_paced_copy_never_takes_less_than_the_link_allows():
    sizes = small(link_bytes_per_s=1e8, link_latency_s=1e-4)
    real = run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3), sizes)
    took_ns = real.copies[:, 3] - real.copies[:, 2]
    assert took_ns.min() >= 1e5 + sizes.expert_bytes / 1e8 * 1e9 - 1
    assert real.columns["link_ns"].sum() > 0
    assert real.label == "EMULATED"
    assert int(real.copies[:, 1].sum()) == int(real.columns["copied_bytes"].sum())


def test_skipped_steps_are_decided_all_the_same():
    sizes = small(steps=40, skip_steps=25)
    whole = run_forced(real_replay(TRACE, policy_of("lru"), small(), slots_per_layer=3), small())
    part = run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3), sizes)
    np.testing.assert_array_equal(part.columns["step"], np.arange(25, 40))
    for name in ("hits", "fetches", "evictions", "copied_bytes", "checksum"):
        np.testing.assert_array_equal(part.columns[name], whole.columns[name][25:40])


def test_prompts_may_be_decided_only():
    """Their experts come into the slots all the same."""
    sizes = small(decode_only=True)
    whole = run_forced(real_replay(TRACE, policy_of("lru"), small(), slots_per_layer=3), small())
    part = run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3), sizes)
    decode = whole.columns["phase"] == 1
    np.testing.assert_array_equal(part.columns["step"], np.flatnonzero(decode))
    for name in ("hits", "fetches", "evictions", "copied_bytes", "checksum"):
        np.testing.assert_array_equal(part.columns[name], whole.columns[name][decode])


def test_host_weights_may_be_shared_by_layers():
    sizes = small(distinct_layers=1)
    real = run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3), sizes)
    assert synthetic_model(sizes, 3, 8).host.numel() == 8 * synthetic_model(sizes, 3, 8).layout.stride
    assert len(real.columns["step"]) == 47


def test_a_copy_that_fails_ends_the_run(monkeypatch):
    from sim.execution.cpu import CpuBackend

    def fail(*_):
        raise OSError("no such memory")

    replay = real_replay(TRACE, policy_of("lru"), small(), slots_per_layer=3)
    with ForcedEngine(replay.spec, small(), resets=False) as engine:
        monkeypatch.setattr(CpuBackend, "copy", fail)
        with pytest.raises(RuntimeError, match="copy thread failed"):
            list(executed_blocks(replace(replay, reader=fresh(replay.reader), engine=engine), small()))


def test_an_expert_that_fails_on_the_cpu_ends_the_run(monkeypatch):
    import threading

    from sim.execution.synthetic import SyntheticModel

    computes = SyntheticModel.expert

    def fail(self, state, weights):
        if threading.current_thread().name == "host experts":
            raise ArithmeticError("no such product")
        return computes(self, state, weights)

    monkeypatch.setattr(SyntheticModel, "expert", fail)
    with pytest.raises(RuntimeError, match="computes experts on the CPU failed"):
        run_forced(real_replay(TRACE, POLICIES["cpu"], small(), slots_per_layer=3), small())


@pytest.mark.parametrize(
    ("knobs", "changes", "words"),
    [
        ({"overflow": "hold"}, {}, "overflow=hold"),
        ({"semantics": "sequential"}, {}, "semantics=sequential"),
        ({}, {"steps": 3, "skip_steps": 3}, "skip_steps=3"),
    ],
)
def test_what_cannot_be_executed_is_refused(knobs, changes, words):
    sizes = small(**changes)
    with pytest.raises(UserError, match=words):
        run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3, **knobs), sizes)


def test_a_replay_of_other_sizes_is_refused():
    with pytest.raises(UserError, match=r"settings\.geometry"):
        run_forced(real_replay(TRACE, policy_of("lru"), small(), slots_per_layer=3), small(expert_ffn=64))


def test_victims_that_go_home_are_refused():
    policy = replace(policy_of("lru"), write_back="serial")
    with pytest.raises(UserError, match="write_back=serial"):
        run_forced(real_replay(TRACE, policy, small(), slots_per_layer=3), small())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "tpu"}, "device=tpu"),
        ({"dtype": "int8"}, "dtype=int8"),
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"steps": 0}, "steps=0"),
        ({"link_bytes_per_s": 0.0}, "link_bytes_per_s=0"),
        ({"link_latency_s": -1.0}, "link_latency_s"),
        ({"device": "cuda"}, "only device=cpu paces"),
        ({"cuda_graphs": True}, "no CUDA graphs"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        RealSettings(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_cuda_device_one_sentence_says_so():
    sizes = small("cuda")
    with pytest.raises(UserError, match="sees no CUDA device"):
        run_forced(real_replay(TRACE, policy_of("lru"), sizes, slots_per_layer=3), sizes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_graphs_compute_what_single_kernels_compute():
    trace = random_trace(5, 3, 8, 2, prompts=(0, 0), decodes=(60, 40))
    plain, graphs = small("cuda"), small("cuda", cuda_graphs=True)
    runs = [run_forced(real_replay(trace, policy_of("lru"), s, slots_per_layer=3), s) for s in (plain, graphs)]
    np.testing.assert_allclose(runs[0].columns["checksum"], runs[1].columns["checksum"], rtol=0, atol=1e-2)
