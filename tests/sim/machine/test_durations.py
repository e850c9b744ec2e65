"""Durations against hand-worked figures: each term alone, then the set-ups whose copy times are published."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.machine.attention import attention_time
from sim.machine.durations import Durations, Table, cpu_rates, tabulate, with_cpu_ratio
from sim.machine.hardware import Hardware, load_hardware
from sim.machine.machine import Machine
from sim.machine.model import load_geometry
from sim.machine.parts import PARTS
from sim.machine.runtime import load_runtime
from traces.errors import UserError
from traces.format.trace import Geometry

# 1 byte per nanosecond over link and memory; arithmetic so fast that it never counts, unless a test says otherwise.
MACHINE = Machine(Hardware("unit", 10**9, 1e9, 1e18, link_latency_s=0.0, link_bytes_per_s=1e9))
MODEL = Geometry(
    model="unit", num_layers=2, num_experts=4, top_k=2, expert_bytes=(1000, 3000), attention_bytes=(50, 60),
    shared_bytes=(0, 70), other_bytes=500, kv_bytes_per_token=8, hidden_size=4, weight_bits=16.0,
)  # fmt: skip


def constants(by_part: Table) -> dict[str, int]:
    """What is not zero, by the name of its part."""
    return {part: spent for part, spent in zip(PARTS, by_part.tolist(), strict=True) if spent}


def test_only_what_is_stated_takes_time() -> None:
    table = tabulate(MODEL, MACHINE, 3)
    assert table.copy_ns.tolist() == [1000, 3000]
    assert table.expert_ns.tolist() == [[0, 1000, 1000, 1000], [0, 3000, 3000, 3000]]
    assert table.shared_ns.tolist() == [[0, 0, 0, 0], [0, 70, 70, 70]]
    assert table.attention_weights_ns.tolist() == [[0, 50, 50, 50], [0, 60, 60, 60]]
    assert table.head_ns.tolist() == [0, 500, 500, 500]
    assert table.cpu_expert_ns is None
    assert (table.link_call_ns, table.expert_launch_ns) == (0, 0)
    assert not table.before_lookup_ns.any() and not table.after_experts_ns.any()
    assert table.unmodelled == ()


def test_link_latency_and_half_size() -> None:
    machine = MACHINE.with_figures({"link_latency_s": 10e-6, "link_half_bytes": 2000.0, "link_call_s": 5e-6})
    table = tabulate(MODEL, machine, 1)
    assert table.copy_ns.tolist() == [10_000 + 3000, 10_000 + 5000]
    assert table.link_call_ns == 5000
    half = tabulate(replace(MODEL, expert_bytes=(2000, 2000)), MACHINE.with_figures({"link_half_bytes": 2000.0}), 1)
    assert half.copy_ns[0] == 2 * 2000  # at x_half the copy reaches half of the bandwidth


def test_arithmetic_takes_over_with_tokens() -> None:
    table = tabulate(MODEL, MACHINE.with_figures({"gpu_flops_per_s": 4e9}), 8)
    # 1000 bytes = 500 weights = 1000 FLOP per token = 250 ns; the weights take 1000 ns to read
    assert table.expert_ns[0].tolist() == [0, 1000, 1000, 1000, 1000, 1250, 1500, 1750, 2000]
    assert table.head_ns[8] == 2 * 250 * 8 // 4


def test_quantised_experts_have_more_weights_per_byte() -> None:
    machine = MACHINE.with_figures({"gpu_flops_per_s": 1e6})
    dense, quantised = tabulate(MODEL, machine, 4), tabulate(replace(MODEL, weight_bits=4.0), machine, 4)
    np.testing.assert_array_equal(quantised.expert_ns, 4 * dense.expert_ns)
    np.testing.assert_array_equal(quantised.shared_ns, dense.shared_ns)  # the rest stays in 16 bits


def test_launches_and_layer_terms() -> None:
    machine = MACHINE.with_figures(
        {
            "launch_s": 2e-6,
            "kernels_per_expert": 3,
            "kernels_per_layer": 10,
            "readback_s": 7e-6,
            "sync_s": 8e-6,
            "host_s_per_layer": 3e-3,
        }
    )
    table = tabulate(MODEL, machine, 1)
    assert table.expert_launch_ns == 6000
    assert constants(table.before_lookup_ns) == {"launch": 20_000, "sync": 7000, "host": 3_000_000}
    assert constants(table.after_experts_ns) == {"sync": 8000}


def test_a_constant_per_layer_is_rounded_once_per_part() -> None:
    machine = MACHINE.with_figures({"host_s_per_layer": 0.4e-9, "decision_s_per_layer": 0.4e-9, "readback_s": 0.4e-9})
    assert constants(tabulate(MODEL, machine, 1).before_lookup_ns) == {"host": 1}


def test_attention_reads_the_cache_or_computes() -> None:
    table = tabulate(MODEL, MACHINE, 4)
    assert table.kv_ps_per_token == 8000
    assert table.attention_ns(0, 1, kv_tokens=100, attended_pairs=100) == 50 + 800
    slow = tabulate(MODEL, MACHINE.with_figures({"gpu_flops_per_s": 1e9}), 4)
    assert slow.pair_ps == 16_000  # 4 * hidden_size FLOP
    assert slow.attention_ns(1, 1, kv_tokens=10, attended_pairs=10) == int(slow.attention_weights_ns[1, 1]) + 160
    assert attention_time(5, 1, 999, 0, 0) == 5  # below a nanosecond is cut off
    assert table.attention_ns(0, 0, 0, 0) == 0


def test_cpu_by_ratio_and_by_bandwidth() -> None:
    ratio = tabulate(MODEL, with_cpu_ratio(MACHINE.with_figures({"link_latency_s": 1e-6}), 1000, 0.25), 2)
    assert ratio.cpu_expert_ns is not None
    assert ratio.cpu_expert_ns.tolist() == [[0, 500, 500], [0, 1500, 1500]]
    bandwidth = tabulate(MODEL, MACHINE.with_figures({"cpu_memory_bytes_per_s": 5e8, "cpu_core_flops_per_s": 1e9}), 3)
    assert bandwidth.cpu_expert_ns is not None
    assert bandwidth.cpu_expert_ns[0].tolist() == [0, 2000, 2000, 3000]
    assert "expert arithmetic on the CPU" in ratio.unmodelled
    assert bandwidth.unmodelled == ()


def test_unknown_sizes_are_left_out_and_named() -> None:
    bare = replace(MODEL, attention_bytes=None, shared_bytes=None, other_bytes=None, kv_bytes_per_token=None)
    table = tabulate(replace(bare, hidden_size=None, weight_bits=None), MACHINE, 2)
    assert table.unmodelled == (
        "attention weights", "reading K and V", "attention arithmetic", "shared experts",
        "LM head and dense layers", "expert arithmetic",
    )  # fmt: skip
    assert table.attention_ns(1, 2, 1000, 1000) == 0
    assert not table.shared_ns.any()
    assert not table.head_ns.any()
    assert table.expert_ns[0, 2] == 1000


def test_what_cannot_be_timed_is_refused() -> None:
    with pytest.raises(UserError, match=r"bytes per expert of model unit are not known.*model=NAME"):
        tabulate(replace(MODEL, expert_bytes=None), MACHINE, 1)
    with pytest.raises(UserError, match="max_tokens=0"):
        tabulate(MODEL, MACHINE, 0)


@pytest.mark.parametrize(
    "figures",
    [
        {"link_bytes_per_s": 1e-5},
        {"gpu_memory_bytes_per_s": 1e-300},
        {"gpu_flops_per_s": 1e-8},
        {"sync_s": 1e7},
        {"cpu_memory_bytes_per_s": 1e-290},
    ],
)
def test_durations_that_the_clock_cannot_count_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"one operation would take .* s, more than the clock can count"):
        tabulate(MODEL, MACHINE.with_figures(figures), 2)


def test_a_month_is_counted_exactly() -> None:
    table = tabulate(MODEL, MACHINE.with_figures({"sync_s": 2_592_000.0}), 1)
    assert constants(table.after_experts_ns) == {"sync": 2_592_000 * 10**9}


def test_halves_round_to_even() -> None:
    table = tabulate(replace(MODEL, expert_bytes=(1, 3)), MACHINE.with_figures({"link_bytes_per_s": 2e9}), 1)
    assert table.copy_ns.tolist() == [0, 2]  # 0.5 and 1.5 ns


@settings(max_examples=60, deadline=None)
@given(
    memory=st.floats(1e6, 1e13), flops=st.floats(1e6, 1e16), link=st.floats(1e6, 1e12), latency=st.floats(0, 1e-3),
    half=st.floats(0, 1e7), ratio=st.floats(0.01, 10), sizes=st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)),
    bits=st.sampled_from([2.0, 4.25, 8.0, 16.0, 32.0]),
)  # fmt: skip
def test_times_grow_with_tokens_and_bytes(
    memory: float, flops: float, link: float, latency: float, half: float, ratio: float, sizes: tuple[int, int],
    bits: float,
) -> None:  # fmt: skip
    hardware = Hardware(
        name="any", gpu_memory_bytes=1, gpu_memory_bytes_per_s=memory, gpu_flops_per_s=flops, link_latency_s=latency,
        link_bytes_per_s=link, link_half_bytes=half, cpu_core_flops_per_s=flops / 10,
    )  # fmt: skip
    machine = with_cpu_ratio(Machine(hardware), max(sizes), ratio)
    model = replace(MODEL, expert_bytes=(min(sizes), max(sizes)), weight_bits=bits)
    table = tabulate(model, machine, 20)
    assert table.cpu_expert_ns is not None
    for name in ("expert_ns", "cpu_expert_ns", "shared_ns", "attention_weights_ns", "head_ns"):
        times = getattr(table, name)
        assert times.dtype == np.int64
        assert (np.diff(times, axis=-1) >= 0).all()
        assert not times[..., 0].any()
    for times in (table.copy_ns, table.expert_ns[:, 20], table.cpu_expert_ns[:, 20]):
        assert times[0] <= times[1]


def _published(hardware: str, model: str, runtime: str = "smoe_2026_07", **figures: float) -> Durations:
    machine = Machine(load_hardware(hardware), load_runtime(runtime)).with_figures(figures)
    return tabulate(load_geometry(model), machine, 1)


@pytest.mark.parametrize(
    ("hardware", "model", "copy_ms"),
    [
        ("s1_rtx3080ti", "deepseek_moe_16b", 1.44),
        ("s2_rtx4060ti", "xverse_moe_a4_2b", 4.08),
        ("s3_a6000", "qwen2_57b_a14b", 2.24),
        ("rtx4090", "mixtral_8x7b", 13.30),
    ],
)
def test_copies_of_the_set_ups(hardware: str, model: str, copy_ms: float) -> None:
    assert _published(hardware, model).copy_ns[0] / 1e6 == pytest.approx(copy_ms, rel=0.005)


def test_the_rtx4090_file_gives_back_what_was_measured() -> None:
    table = _published("rtx4090", "mixtral_8x7b", "eager_hf", copies_per_expert=1)
    assert (table.expert_ns[0, 1] + table.expert_launch_ns) / 1e6 == pytest.approx(0.59, rel=0.005)
    assert table.cpu_expert_ns is not None
    assert table.cpu_expert_ns[0, 1] / 1e6 == pytest.approx(11.41, rel=0.005)


def test_a_cpu_expert_on_s3_takes_what_its_authors_logged() -> None:
    """2.40 ms on two cores, 1.08 of a copy; by their scaling .73 on three."""
    for threads, ratio in ((2, 1.08), (3, 0.72)):
        table = _published("s3_a6000", "qwen2_57b_a14b", cpu_threads=threads)
        assert table.cpu_expert_ns is not None
        assert table.cpu_expert_ns[0, 1] / table.copy_ns[0] == pytest.approx(ratio, rel=0.01)


def test_the_cpu_is_as_fast_as_its_cores_or_its_memory() -> None:
    figures = {"cpu_cores": 4, "cpu_core_bytes_per_s": 1e8, "cpu_memory_bytes_per_s": 2.5e8}
    for threads, rate in ((1, 1e8), (2, 2e8), (3, 2.5e8), (None, 2.5e8), (99, 2.5e8)):
        assert cpu_rates(MACHINE.with_figures(figures | {"cpu_threads": threads}))[0] == rate
    assert cpu_rates(MACHINE.with_figures(figures | {"cpu_memory_bytes_per_s": None}))[0] == 4e8
    assert cpu_rates(MACHINE.with_figures({"cpu_core_bytes_per_s": 1e8}))[0] == 1e8  # cores are not stated: one
    assert cpu_rates(MACHINE.with_figures({"cpu_core_flops_per_s": 5.0, "cpu_threads": 3}))[1] == 15.0


def test_kernels_reach_a_share_of_the_memory_rate() -> None:
    table = tabulate(MODEL, MACHINE.with_figures({"gpu_memory_share": 0.5}), 1)
    assert table.expert_ns[:, 1].tolist() == [2000, 6000]
    assert table.attention_weights_ns[:, 1].tolist() == [100, 120]
    assert table.kv_ps_per_token == 16_000
    assert table.copy_ns.tolist() == [1000, 3000]


def test_quantised_weights_that_are_expanded_whenever_they_run() -> None:
    """4 of 16 bits: 1000 bytes become 4000, at half of the memory rate in 8000 ns; 16 bits stay as they are."""
    machine = MACHINE.with_figures({"dequantises": True, "dequantise_share": 0.5})
    assert tabulate(replace(MODEL, weight_bits=4.0), machine, 2).expert_ns[0].tolist() == [0, 9000, 9000]
    assert tabulate(MODEL, machine, 2).expert_ns[0].tolist() == [0, 1000, 1000]
    with pytest.raises(UserError, match=r"runtime.dequantises=true needs dequantise_share"):
        tabulate(replace(MODEL, weight_bits=4.0), MACHINE.with_figures({"dequantises": True}), 2)


def test_the_time_model_imports_nothing_slow() -> None:
    slow = "{'pandas', 'matplotlib', 'torch', 'scipy', 'transformers'}"
    modules = "sim.machine.durations, sim.machine.hardware, sim.machine.model"
    code = f"import sys, {modules}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
