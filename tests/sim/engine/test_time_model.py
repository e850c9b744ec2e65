"""Every term of the time model that is not the link's or the CPU's, alone: totals worked out by hand.

``machine()`` copies 1000 bytes in 1000 ns and does everything else in no time; each test switches one term on. An
expert has 1000 bytes (500 weights, 1000 FLOP per token) unless the test says otherwise.
"""

import numpy as np
import pytest

from tests.support.replays import machine
from tests.support.timelines import TIMED, requests, rows, timed

pytestmark = pytest.mark.parametrize("engine", TIMED)
TWO_LAYERS = ([[0], [0]], [[1], [2]], [[0], [3]])  # three tokens


@pytest.mark.parametrize(
    ("tokens", "expert_ns"),
    [(1, 1000), (4, 1000), (5, 1250), (8, 2000)],
)
def test_an_expert_reads_its_weights_or_computes(engine, tokens, expert_ns):
    """1000 bytes at 1 byte/ns are 1000 ns; 1000 FLOP per token at 4 FLOP/ns are 250 ns per token."""
    trace = rows(*([[[3]]] * tokens), prompt=tokens)
    found = timed(trace, "all_resident", machine(gpu_memory_bytes_per_s=1e9, gpu_flops_per_s=4e9), engine=engine)
    assert found.latency_ns == [expert_ns]
    assert found.spent() == {"expert": expert_ns}


def test_a_batch_runs_the_union_of_its_experts_by_token_counts(engine):
    """Expert 0 serves two tokens, 1 and 2 one each: 500 + 250 + 250 ns; and each is copied once."""
    trace = requests([[[[0, 1]]], [[[0, 2]]]], [0, 0])
    hardware = machine(gpu_flops_per_s=4e9)
    resident = timed(trace, "all_resident", hardware, engine=engine, batch_size=2)
    assert resident.latency_ns == [1000]
    tokens_of = {row[1]: row[4] for row in resident.log if row[0] == 1}
    assert tokens_of == {0: 2, 1: 1, 2: 1}
    alone = timed(trace, "all_resident", hardware, engine=engine)
    assert alone.latency_ns == [500, 500]
    fetched = timed(trace, "on_demand", hardware, engine=engine, batch_size=2)
    # order of last touch: 1, 0, 2; copies end at 1000, 2000, 3000, the last expert runs 250 ns
    assert fetched.latency_ns == [3250]
    assert fetched.counts["demand_copies"] == 3


def test_a_batch_shrinks_as_its_requests_end(engine):
    trace = requests([[[[0]], [[0]], [[0]]], [[[0]]]], [0, 0])
    found = timed(trace, "all_resident", machine(gpu_flops_per_s=4e9), engine=engine, batch_size=2)
    assert found.latency_ns == [500, 250, 250]


def test_a_prompt_is_prefilled_in_chunks(engine):
    """Five tokens of one expert, 250 ns each: one step of 1250 ns, or chunks of 2, 2 and 1."""
    trace = rows(*([[[3]]] * 5), [[3]], prompt=5)
    hardware = machine(gpu_flops_per_s=4e9)
    assert timed(trace, "all_resident", hardware, engine=engine).latency_ns == [1250, 250]
    chunks = timed(trace, "all_resident", hardware, engine=engine, prefill_chunk=2)
    assert chunks.latency_ns == [500, 500, 250, 250]
    assert chunks.metrics["ttft_s.mean"] == pytest.approx(1250e-9)


def test_launches_of_experts_and_layers(engine):
    """Two layers with 7 kernels each and two experts of 3 kernels each, 10 ns per kernel."""
    trace = rows([[0, 1], [2, 3]])
    hardware = machine(launch_s=10e-9, kernels_per_expert=3, kernels_per_layer=7)
    found = timed(trace, "all_resident", hardware, engine=engine)
    assert found.latency_ns == [2 * (70 + 2 * 30)]
    assert found.spent() == {"launch": 260}


def test_cuda_graphs_launch_once_per_expert_and_layer(engine):
    trace = rows([[0, 1], [2, 3]])
    hardware = machine(
        launch_s=10e-9, kernels_per_expert=3, kernels_per_layer=7, graph_launch_s=25e-9, cuda_graphs=True
    )
    found = timed(trace, "all_resident", hardware, engine=engine)
    assert found.latency_ns == [2 * (25 + 2 * 25)]
    assert found.spent() == {"launch": 150}


def test_attention_reads_its_weights_and_the_cache(engine):
    """Weights 50 and 60 ns; K and V 8 ns per token and layer: 4 tokens of prompt, then 5 and 6 in decode."""
    trace = rows(*TWO_LAYERS, *TWO_LAYERS, prompt=4, attention_bytes=(50, 60), kv_bytes_per_token=8)
    found = timed(trace, "all_resident", machine(gpu_memory_bytes_per_s=1e9), engine=engine, time={"experts": False})
    assert found.latency_ns == [110 + 2 * 8 * 4, 110 + 2 * 8 * 5, 110 + 2 * 8 * 6]
    assert set(found.spent()) == {"attention"}


def test_attention_computes_all_pairs(engine):
    """16 FLOP per (query, key) pair at 1 FLOP/ns: 1 + 2 + 3 + 4 pairs in the prompt, then 5; in chunks 6, 4 and 5."""
    trace = rows(*([[[3]]] * 5), prompt=4, hidden_size=4)
    hardware = machine(gpu_flops_per_s=1e9)
    knobs = {"engine": engine, "time": {"experts": False}}
    assert timed(trace, "all_resident", hardware, **knobs).latency_ns == [160, 80]
    assert timed(trace, "all_resident", hardware, prefill_chunk=3, **knobs).latency_ns == [96, 64, 80]


def test_a_batch_reads_the_cache_of_all_its_requests(engine):
    """Prompts of 1 and 3 tokens, then both decode: 2 + 4 tokens, 3 + 5 tokens."""
    trace = requests([[[[0]]] * 3, [[[0]]] * 5], [1, 3], kv_bytes_per_token=10)
    found = timed(
        trace, "all_resident", machine(gpu_memory_bytes_per_s=1e9), engine=engine, batch_size=2, time={"experts": False}
    )
    assert found.latency_ns == [10, 30, 60, 80]


def test_shared_experts_run_beside_copies(engine):
    """70 and 30 ns, hidden behind a copy of 1000 ns in layer 0; layer 1 is resident (warm)."""
    trace = rows([[5], [0]], shared_bytes=(70, 30))
    hardware, off = machine(gpu_memory_bytes_per_s=1e9), {"experts": False}
    resident = timed(trace, "all_resident", hardware, engine=engine, time=off)
    assert resident.latency_ns == [100]
    assert resident.spent() == {"expert": 100}
    warm = timed(trace, "lru", hardware, engine=engine, time=off, start="warm", slots_per_layer=2)
    assert warm.latency_ns == [1000 + 30]
    assert warm.spent() == {"expert": 100, "link": 930}


@pytest.mark.parametrize(
    ("figure", "part"),
    [("readback_s", "sync"), ("sync_s", "sync"), ("host_s_per_layer", "host"), ("decision_s_per_layer", "host")],
)
def test_terms_of_a_layer(engine, figure, part):
    """40 ns in each of two layers, three steps, each in its part; they delay copies but hide none that they precede."""
    trace = rows(*TWO_LAYERS)
    held = {"slots_per_layer": trace.num_experts, "start": "warm"}
    found = timed(trace, "lru", machine(**{figure: 40e-9}), engine=engine, **held)
    assert found.latency_ns == [80, 80, 80]
    assert found.spent() == {part: 240}
    assert timed(trace, "on_demand", machine(**{figure: 40e-9}), engine=engine).latency_ns == [2080, 2080, 2080]


def test_the_head_reads_its_weights_or_computes_once_per_step(engine):
    """500 bytes take 500 ns; at 2 FLOP/ns a token costs 250 ns: 4 prompt tokens 1000 ns, then 500 ns each."""
    trace = rows(*TWO_LAYERS, *TWO_LAYERS, prompt=4, other_bytes=500)
    hardware = machine(gpu_memory_bytes_per_s=1e9, gpu_flops_per_s=2e9)
    found = timed(trace, "all_resident", hardware, engine=engine, time={"experts": False})
    assert found.latency_ns == [1000, 500, 500]
    assert found.spent() == {"attention": 2000}


def test_terms_of_a_layer_come_before_the_lookup_and_hide_prefetches_only(engine):
    """The order in a layer: attention, launch, read-back, host, lookup, shared experts, experts, synchronisation."""
    trace = rows([[5], [6]], attention_bytes=(100, 100), shared_bytes=(50, 50))
    hardware = machine(
        gpu_memory_bytes_per_s=1e9, launch_s=10e-9, kernels_per_layer=1, readback_s=20e-9, host_s_per_layer=30e-9,
        sync_s=40e-9,
    )  # fmt: skip
    found = timed(trace, "lru", hardware, engine=engine, slots_per_layer=2, time={"experts": False})
    lookup = 100 + 10 + 20 + 30
    end = lookup + 1000 + 40
    assert found.slices("copy") == [(5, lookup, lookup + 1000), (8 + 6, end + lookup, end + lookup + 1000)]
    assert found.slices("layer") == [(0, 0, lookup), (1, end, end + lookup)]
    assert found.latency_ns == [2 * end]
    assert found.parts_ns == {
        "attention": 200, "expert": 100, "link": 2 * 950, "cpu": 0, "launch": 20, "sync": 2 * 60, "host": 60,
        "storage": 0,
    }  # fmt: skip


def test_times_per_token_are_those_of_decode_steps(engine):
    """A prompt of two tokens (2 x 100 ns in the expert) does not count; a decode step of two requests counts twice."""
    trace = requests([[[[0]], [[0]], [[0]]], [[[0]], [[0]]]], [2, 1])
    hardware = machine(gpu_flops_per_s=1e10, sync_s=7e-9)
    held = {"slots_per_layer": trace.num_experts, "start": "warm"}
    found = timed(trace, "lru", hardware, engine=engine, batch_size=2, **held)
    assert found.latency_ns == [207, 107, 207]
    assert found.metrics["time_s_per_token.expert"] == pytest.approx(200e-9)
    assert found.metrics["time_s_per_token.sync"] == pytest.approx(7e-9)
    assert found.metrics["itl_s.mean"] == pytest.approx(207e-9)
    assert found.metrics["simulated_s"] == pytest.approx(np.sum(found.latency_ns) * 1e-9)
