"""Expert Streaming against answers worked out by hand, and what holds for any routing and package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sim.systems.expert_streaming.baseline import expert_parallel
from sim.systems.expert_streaming.compare import compare, metrics
from sim.systems.expert_streaming.config import Settings
from sim.systems.expert_streaming.layer import Expert, Result, tokens_per_die
from sim.systems.expert_streaming.package import Machine, Package, ring, route
from sim.systems.expert_streaming.routing import PAPER_MODELS, buffered, deferred, drawn, load_shape, sampled, waiting
from sim.systems.expert_streaming.run import run
from sim.systems.expert_streaming.scheme import Buffer, Slicing, expert_streaming, load_order, trajectory
from tests.support.random_traces import random_trace
from traces.errors import UserError

FAST = 1e18
EXPERT = Expert(hidden_size=10, ffn=40)
"""1200 bytes, 1200 multiply-accumulates per token, 10 bytes per hidden state."""
CONFIG = Path(__file__).resolve().parents[3] / "conf" / "system" / "expert_streaming.yaml"


def machine(**changes: Any) -> Machine:
    """2x2 dies on which only memory channels take time: 10 ns per byte."""
    return replace(Machine(2, 2, FAST, 1e8, FAST), **changes)


def four_slices(**changes: Any) -> Slicing:
    return replace(Slicing(slices=4, slots=12), **changes)


def counts_of(rows: dict[int, list[int]], num_experts: int = 8) -> np.ndarray:
    counts = np.zeros((num_experts, len(next(iter(rows.values())))), np.int64)
    for expert, row in rows.items():
        counts[expert] = row
    return counts


def stream(on: Machine, counts: np.ndarray, slicing: Slicing | None = None, tokens: int = 4) -> Result:
    return expert_streaming(on, EXPERT, slicing or four_slices(), counts, tokens)


def parallel(on: Machine, counts: np.ndarray, slots: int = 2, tokens: int = 4) -> Result:
    return expert_parallel(on, EXPERT, slots, counts, tokens)


def system(**changes: Any) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(CONFIG))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()} | changes


# --- the package -----------------------------------------------------------------------------------------------------


def test_ring_of_four_dies_goes_round_the_square() -> None:
    assert ring(2, 2) == [1, 3, 2, 0]
    assert ring(1, 1) == [0]


@pytest.mark.parametrize(("rows", "columns", "longest"), [(2, 2, 1), (4, 4, 1), (2, 3, 1), (3, 2, 1), (3, 3, 2)])
def test_ring_visits_every_die_once_over_single_links_where_the_mesh_allows_it(
    rows: int, columns: int, longest: int
) -> None:
    walk = ring(rows, columns)
    assert sorted(walk) == list(range(rows * columns))
    hops = [len(route(a, b, columns)) - 1 for a, b in zip(walk, walk[1:] + walk[:1], strict=True)]
    assert max(hops) == longest


def test_route_goes_along_the_row_then_the_column() -> None:
    assert route(0, 8, 3) == [0, 1, 2, 5, 8]
    assert route(8, 0, 3) == [8, 7, 6, 3, 0]
    assert route(4, 4, 3) == [4]


def test_a_message_takes_bytes_over_bandwidth_and_the_latency_on_every_link() -> None:
    package = Package(machine(rows=1, columns=4, d2d_bytes_per_s=1e9, d2d_latency_ns=7))
    package.env.process(package.move(0, 3, 1000, ""))
    package.env.run()
    assert package.env.now == 3 * (1000 + 7)
    assert package.link_bytes == 3 * 1000


def test_two_messages_share_a_link_in_turn_and_opposite_directions_do_not_meet() -> None:
    package = Package(machine(rows=1, columns=2, d2d_bytes_per_s=1e9))
    for start, end in ((0, 1), (0, 1), (1, 0)):
        package.env.process(package.move(start, end, 1000, ""))
    package.env.run()
    assert package.env.now == 2000
    assert package.link_ns == {(0, 1): 2000, (1, 0): 1000}


# --- streaming -------------------------------------------------------------------------------------------------------


def test_a_micro_slice_makes_one_hop_less_than_there_are_dies() -> None:
    on = machine(d2d_bytes_per_s=1e9, d2d_latency_ns=10)
    result = stream(on, counts_of({0: [1, 1, 1, 1]}))
    assert result.makespan_ns == 3000 + 3 * (300 + 10)  # 300 bytes a slice, all four go round at once
    assert result.link_bytes == 4 * 3 * 300


def test_streaming_at_the_limit_of_memory_reads_all_channels_evenly() -> None:
    assert stream(machine(), counts_of({e: [1, 1, 1, 1] for e in range(8)})).makespan_ns == 8 * 1200 * 10 // 4
    assert stream(machine(), counts_of({0: [1, 1, 1, 1], 4: [0, 2, 0, 0]})).makespan_ns == 2 * 1200 * 10 // 4


def test_streaming_at_the_limit_of_computation_keeps_every_die_busy() -> None:
    on = machine(macs_per_s=1e9, ddr_bytes_per_s=FAST)
    result = stream(on, counts_of({0: [4] * 4, 4: [4] * 4}), tokens=32)
    assert result.compute_ns == (8 * 1200,) * 4
    assert result.makespan_ns == 8 * 1200


def test_each_micro_slice_starts_its_own_computation() -> None:
    on = machine(macs_per_s=1e9, ddr_bytes_per_s=FAST, start_ns=50)
    assert stream(on, counts_of({0: [4] * 4}), tokens=16).makespan_ns == 4 * (50 + 1200)


def test_one_die_moves_nothing_and_both_schemes_take_the_same_time() -> None:
    on = machine(rows=1, columns=1, macs_per_s=1e9)
    counts = counts_of({e: [2] for e in range(3)})
    whole, sliced = parallel(on, counts), stream(on, counts, Slicing(1, 2))
    assert whole.link_bytes == sliced.link_bytes == 0
    assert (
        whole.makespan_ns == sliced.makespan_ns == 3 * 12000 + 2 * 1200
    )  # the last expert's tokens come after its load


def test_a_die_takes_what_it_received_before_what_it_loaded() -> None:
    on = machine(rows=1, columns=2, macs_per_s=1e9, ddr_bytes_per_s=FAST)
    counts = counts_of({0: [1, 1], 2: [1, 1]})  # slices 0 of both lie behind die 0, slices 1 behind die 1
    result = expert_streaming(on, EXPERT, Slicing(2, 12), counts, 2, timeline=True)
    assert result.log is not None
    order = [what.split(",")[0] for track, what, _, _ in result.log if track == "die 0"]
    assert order[:2] == ["expert 0 slice 0", "expert 0 slice 1"]
    assert order[-1] == "expert 2 slice 0"


def test_slots_bound_what_streaming_holds() -> None:
    on = machine(rows=1, columns=1, macs_per_s=1e6, ddr_bytes_per_s=FAST)
    result = stream(on, counts_of({e: [5] for e in range(8)}), four_slices(slots=3), tokens=5)
    assert result.peak_bytes == (3 * 300 + 2 * 5 * 10,)


def test_a_trajectory_starts_where_the_slice_loads_and_skips_dies_without_tokens() -> None:
    assert trajectory(0, np.array([0, 1, 0, 2]), ring(2, 2)) == [0, 1, 3]
    assert trajectory(3, np.array([0, 1, 0, 2]), ring(2, 2)) == [3, 1]
    assert trajectory(2, np.array([0, 0, 9, 0]), ring(2, 2)) == [2]


def test_a_die_without_tokens_passes_its_share_on_and_computes_nothing() -> None:
    result = stream(machine(macs_per_s=1e9), counts_of({0: [0, 3, 0, 0]}))
    assert result.executed[0].tolist() == [0, 3, 0, 0]
    assert result.compute_ns == (0, 3 * 1200, 0, 0)
    assert result.channel_ns == (3000,) * 4


def test_pairs_join_the_hottest_with_the_coldest() -> None:
    assert load_order(np.array([5, 0, 9, 1, 7]), paired=True) == [(2, 3), (4, 0)]
    assert load_order(np.array([5, 0, 9, 1, 7, 6]), paired=True) == [(2, 3), (4, 0), (5,)]
    assert load_order(np.array([5, 0, 9]), paired=False) == [(0,), (2,)]
    assert load_order(np.array([0, 3]), paired=True) == [(1,)]


def test_slots_are_kept_for_micro_slices_far_on_their_way() -> None:
    env = simpy.Environment()
    buffer = Buffer(env, slots=4, longest=3)
    first, second, far = buffer.acquire(0), buffer.acquire(0), buffer.acquire(3)
    assert (first.triggered, second.triggered, far.triggered) == (True, False, True)
    buffer.release()
    assert not second.triggered  # three are free, a first hop needs all four
    buffer.release()
    assert second.triggered


def test_the_emptiest_die_takes_what_a_full_one_cannot() -> None:
    on = machine(rows=1, columns=2, macs_per_s=1e9, d2d_bytes_per_s=1e9)
    counts = counts_of({0: [9, 0]})
    near = stream(on, counts, Slicing(8, 2, to_emptiest=False))
    away = stream(on, counts, Slicing(8, 2, to_emptiest=True))
    assert near.executed.tolist() == away.executed.tolist()
    assert away.link_bytes > near.link_bytes


# --- expert parallelism ----------------------------------------------------------------------------------------------


def test_tokens_travel_while_their_expert_loads_and_results_come_home() -> None:
    on = machine(rows=1, columns=2, macs_per_s=1e9, d2d_bytes_per_s=1e9, d2d_latency_ns=10)
    result = parallel(on, counts_of({0: [0, 1]}))
    assert result.makespan_ns == 12000 + 1200 + (10 + 10)
    assert result.link_bytes == 2 * 10


def test_the_baseline_waits_for_the_die_that_owns_the_active_experts() -> None:
    counts = counts_of({0: [4] * 4, 4: [4] * 4})  # both behind die 0
    memory_bound = parallel(machine(), counts, tokens=32)
    assert memory_bound.makespan_ns == 2 * 12000 == 4 * stream(machine(), counts).makespan_ns
    compute_bound = parallel(machine(macs_per_s=1e9, ddr_bytes_per_s=FAST), counts, tokens=32)
    assert compute_bound.compute_ns == (32 * 1200, 0, 0, 0)
    assert compute_bound.makespan_ns == 32 * 1200


def test_a_second_slot_hides_the_load_behind_the_computation() -> None:
    on = machine(rows=1, columns=1, macs_per_s=1e9)
    counts = counts_of({0: [10], 1: [10]})
    assert parallel(on, counts, slots=1).makespan_ns == 2 * (12000 + 12000)
    assert parallel(on, counts, slots=2).makespan_ns == 3 * 12000


def test_the_baseline_holds_two_experts_and_the_tokens_of_others() -> None:
    on = machine(rows=1, columns=2, macs_per_s=1e9)
    alone = parallel(on, counts_of({0: [3, 0], 2: [3, 0]}), tokens=6)
    assert alone.peak_bytes == (2 * 1200 + 2 * 3 * 10, 2 * 3 * 10)
    guests = parallel(on, counts_of({0: [0, 3], 2: [0, 3]}), tokens=6)
    assert guests.peak_bytes[0] == 2 * 1200 + 2 * 3 * 10 + 2 * 3 * 10


# --- routing and waiting tokens --------------------------------------------------------------------------------------


def test_tokens_are_dealt_to_the_dies_in_turn() -> None:
    ids = np.array([[0, 1], [0, 2], [0, 1], [3, 1], [0, 1]])
    assert tokens_per_die(ids, 4, 2).tolist() == [[3, 1], [3, 1], [0, 1], [0, 1]]


def test_drawn_experts_of_a_token_differ_and_follow_the_popularity() -> None:
    shape = load_shape("deepseek_moe_16b")
    ids = drawn(shape, 2, 4000, 1.0, np.random.default_rng(0))
    assert ids.shape == (2, 4000, 6)
    assert all(len(set(token)) == 6 for token in ids.reshape(-1, 6)[:200].tolist())
    even, skewed = (
        np.bincount(drawn(shape, 1, 4000, skew, np.random.default_rng(1)).ravel(), minlength=64) for skew in (0.0, 1.0)
    )
    assert even.max() / even.mean() < 1.2
    assert skewed.max() / skewed.mean() > 4


def test_one_expert_of_one_is_drawn_by_its_share() -> None:
    shape = replace(load_shape("phi_3_5_moe"), num_experts=2, top_k=1)
    ids = drawn(shape, 1, 30000, 1.0, np.random.default_rng(3))
    assert np.sort(np.bincount(ids.ravel()) / 30000) == pytest.approx([1 / 3, 2 / 3], abs=0.01)


def test_rows_of_a_trace_are_sampled_whole() -> None:
    trace = random_trace(0)
    ids = sampled(trace, 3, 5, np.random.default_rng(0))
    assert ids.shape == (3, 5, trace.top_k)
    layers = [{tuple(row) for row in trace.topk_ids[:, layer].tolist()} for layer in range(trace.num_layers)]
    found = {tuple(row) for row in ids.reshape(-1, trace.top_k).tolist()}
    assert any(found <= rows for rows in layers)


def test_the_tokens_of_the_coldest_experts_wait_within_the_budget() -> None:
    ids = np.array([[0, 1], [0, 1], [0, 2], [0, 1], [3, 1]])  # expert 2: token 2, expert 3: token 4
    nobody = np.zeros(5, bool)
    assert deferred(ids, 4, 0, nobody).tolist() == [False] * 5
    assert deferred(ids, 4, 1, nobody).tolist() == [False, False, True, False, False]
    assert deferred(ids, 4, 2, nobody).tolist() == [False, False, True, False, True]
    waited = np.array([False, False, True, False, False])
    assert deferred(ids, 4, 1, waited).tolist() == [False, False, False, False, True]


def test_with_refill_every_token_runs_once_and_waits_once_at_most() -> None:
    ids = drawn(load_shape("qwen3_30b_a3b"), 5, 20, 0.5, np.random.default_rng(2))
    steps = buffered(ids, 128, 0.2, refill=True)
    assert [len(step) for step in steps] != [20] * 5
    everything = sorted(map(tuple, np.concatenate(steps).tolist()))
    assert everything == sorted(map(tuple, ids.reshape(-1, 8).tolist()))
    assert 0 < waiting(20, steps, True) <= 4 * 4  # 4 of 20 in all iterations but the last


def test_in_lockstep_a_waiting_sequence_gets_no_new_token() -> None:
    ids = np.array([[[0], [1], [1]], [[1], [1], [1]]])  # sequence 0: expert 0, then 1
    steps = buffered(ids, 2, 0.4, refill=False)
    assert [step.ravel().tolist() for step in steps] == [[1, 1], [0, 1, 1]]
    assert waiting(3, steps, False) == 1


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_memory_of_both_schemes_by_formula(model: str) -> None:
    one = Settings(**system(model=model, draws=1, tokens=256, ddr_bytes_per_s=1e12, skew=0.0, routing="drawn"))
    shape, found = load_shape(model), metrics(compare(one, None))
    weights, tokens = 3 * shape.hidden_size * shape.ffn, 2 * 256 * shape.hidden_size
    assert found["baseline.sram_peak_bytes"] == pytest.approx(4 * 2 * weights + tokens, rel=0.05)
    most = 4 * 12 * -(-weights // 16) + tokens
    assert 0.8 * most <= found["streaming.sram_peak_bytes"] <= most


def test_times_and_bytes_are_those_of_one_iteration() -> None:
    """At the limit of memory an iteration reads its active experts, spread over four channels."""
    one = Settings(**system(model="phi_3_5_moe", draws=2, iterations=3, tokens=64, routing="drawn", macs_per_cycle=1e9))
    shape, found = load_shape("phi_3_5_moe"), metrics(compare(one, None))
    active, tokens = float(found["active_experts.mean"] or 0), float(found["baseline.time_s_per_token"] or 0)
    loaded = active * 3 * shape.hidden_size * shape.ffn
    assert found["streaming.channel_bytes.mean"] == pytest.approx(loaded)
    assert found["streaming.makespan_s.mean"] == pytest.approx(loaded / 4 / 25.6e9, rel=0.01)
    assert found["baseline.makespan_s.mean"] == pytest.approx(64 * tokens)


def test_known_totals_of_the_models_of_the_paper() -> None:
    sizes = {name: load_shape(name) for name in PAPER_MODELS}
    billions = {name: 3 * s.hidden_size * s.ffn * s.num_experts / 1e9 for name, s in sizes.items()}
    assert billions["phi_3_5_moe"] * 32 == pytest.approx(40.3, abs=0.1)  # of 42 billion parameters
    assert billions["yuan_2_0_m32"] * 24 == pytest.approx(38.7, abs=0.1)  # of 40 billion


def test_the_run_writes_the_same_bytes_twice_and_a_timeline(tmp_path: Path) -> None:
    config = system(tokens=4, draws=2)
    texts = [run(config, None, tmp_path / name, timeline=True) for name in "ab"]
    assert texts[0] == texts[1]
    assert "SIMULATED" in texts[0]
    for name in ("metrics.json", "timeline.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    result = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert result["label"] == "SIMULATED"
    assert result["speedup.low"] <= result["speedup"] <= result["speedup.high"]
    events = json.loads((tmp_path / "a" / "timeline.json").read_text())["traceEvents"]
    tracks = {event["args"]["name"].split()[0] for event in events if event["name"] == "thread_name"}
    assert tracks == {"die", "link", "memory"}


def test_the_trace_is_used_where_its_experts_are_the_models(tmp_path: Path) -> None:
    trace = random_trace(0)
    shape = load_shape("deepseek_moe_16b")
    assert (trace.num_experts, trace.top_k) != (shape.num_experts, shape.top_k)
    assert "routing: drawn" in run(system(tokens=2, draws=1), trace, tmp_path, timeline=False)
    fitting = random_trace(0, num_experts=64, top_k=6)
    assert "routing: random rows of the trace" in run(system(tokens=2, draws=1), fitting, tmp_path, timeline=False)
    assert "routing: drawn" in run(system(tokens=2, draws=1, routing="drawn"), fitting, tmp_path, timeline=False)
    with pytest.raises(UserError, match=r"system\.routing=trace: the trace has \d+ experts"):
        run(system(routing="trace"), trace, tmp_path, timeline=False)
    with pytest.raises(UserError, match="no trace is given"):
        run(system(routing="trace"), None, tmp_path, timeline=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": 3}, r"system\.slots=3: must be at least 4"),
        ({"slack": 0.2}, r"system\.iterations=1: must be at least 2"),
        ({"slack": 1.0}, r"system\.slack=1\.0"),
        ({"tokens": 0}, r"system\.tokens=0: must be between 1 and 16777216"),
        ({"clock_hz": 0.0}, r"system\.clock_hz=0\.0"),
        ({"routing": "guess"}, r"system\.routing=guess"),
        ({"model": "gpt_5"}, r"system\.model=gpt_5 is not known"),
        ({"token": 4}, r"system\.token is not a field .* did you mean tokens"),
        ({"start_s": -1.0}, r"system\.start_s=-1\.0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(system(**changes), None, tmp_path, timeline=False)


# --- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_token_meets_each_of_its_experts_once_whatever_the_package(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    dies = rows * columns
    tokens = data.draw(st.integers(1, 20))
    ids = drawn(load_shape("phi_3_5_moe"), 1, tokens, 1.0, np.random.default_rng(data.draw(st.integers(0, 99))))[0]
    counts = tokens_per_die(ids, 16, dies)
    on = Machine(
        rows,
        columns,
        macs_per_s=data.draw(st.sampled_from([1e8, 1e9, FAST])),
        ddr_bytes_per_s=data.draw(st.sampled_from([1e7, 1e9, FAST])),
        d2d_bytes_per_s=data.draw(st.sampled_from([1e7, 1e9, FAST])),
    )
    extra, flags = data.draw(st.integers(0, 3)), data.draw(st.tuples(st.booleans(), st.booleans()))
    slicing = Slicing(data.draw(st.integers(1, 9)), dies + extra, *flags)
    result = stream(on, counts, slicing, tokens)
    np.testing.assert_allclose(result.executed, counts, atol=1e-9)
    active = int(np.count_nonzero(counts.sum(axis=1)))
    assert result.channel_bytes == active * slicing.slices * slicing.bytes(EXPERT)
    assert max(result.peak_bytes) <= slicing.slots * slicing.bytes(EXPERT) + 20 * -(-tokens // dies)
    most_ns = max(max(result.compute_ns), max(result.channel_ns))
    assert most_ns <= result.makespan_ns
    whole = parallel(on, counts, 2, tokens)
    assert whole.executed.sum(axis=1).tolist() == counts.sum(axis=1).tolist()
    assert np.count_nonzero(whole.executed) == active
    assert whole.channel_bytes == active * EXPERT.bytes
