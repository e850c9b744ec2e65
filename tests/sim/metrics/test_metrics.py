"""Metrics of replays that can be worked out by hand, and tables that are written piece by piece."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from sim.engine.decision.counters import COUNTERS
from sim.engine.interface import BlockResult
from sim.machine.parts import PARTS
from sim.metrics.step_table import COLUMNS, StepTable
from sim.results.table_file import TableFile
from sim.workload.steps import StepBlock
from tests.support.random_traces import random_trace
from tests.support.replays import machine, replay_of


class Kept:
    """A sink that keeps the pieces it is given."""

    def __init__(self):
        self.pieces = []

    def write(self, columns):
        self.pieces.append(columns)


def a_block(phases, sizes, requests, latency_ns, group=None):
    """Steps of given phases and sizes; ``requests`` one per row. Every step waits all its time for the link."""
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    steps = len(sizes)
    parts = np.zeros((steps, len(PARTS)), np.int64)
    parts[:, PARTS.index("link")] = latency_ns
    counts = np.zeros((steps, len(COUNTERS)), np.int64)
    counts[:, COUNTERS.index("demanded")], counts[:, COUNTERS.index("hits")] = 4, np.arange(steps)
    block = StepBlock(
        rows=np.arange(bounds[-1]),
        requests=np.array(requests),
        bounds=bounds,
        group=np.zeros(steps, np.int64) if group is None else np.array(group),
        phase=np.array(phases, np.uint8),
        kv_tokens=np.ones(steps, np.int64),
        attended_pairs=np.ones(steps, np.int64),
        pause_ns=np.zeros(steps, np.int64),
    )
    lost = np.stack([np.arange(steps) / 4, np.ones(steps), np.arange(steps) / 8], axis=1)
    return BlockResult(np.array(latency_ns), parts, counts, lost, block)


def test_a_batch_of_two_by_hand():
    """Prompts of 2 and 1 tokens take 10 and 5 ns; two steps of both requests 20 ns each, then one of request 1, 50."""
    table = StepTable(replay_of(random_trace(0, prompts=(2, 1), decodes=(2, 3)), "lru", batch_size=2))
    table.add(a_block([0, 0, 1], [2, 1, 2], [0, 0, 1, 0, 1], [10, 5, 20]))
    table.add(a_block([1, 1], [2, 1], [0, 1, 1], [20, 50]))
    metrics = table.metrics()
    assert metrics["ttft_s.mean"] == pytest.approx((10 + 15) / 2 * 1e-9)
    assert table.requests()["latency_s"] == pytest.approx([55e-9, 105e-9])
    assert table.requests()["tpot_s"] == pytest.approx([(55 - 10) / 2 * 1e-9, (105 - 15) / 3 * 1e-9])
    assert metrics["itl_s.mean"] == pytest.approx((20 * 4 + 50) / 5 * 1e-9)  # a step's time is each member's
    assert metrics["itl_s.p50"] == pytest.approx(20e-9)
    assert metrics["itl_s.p90"] == pytest.approx((20 + 0.6 * 30) * 1e-9)
    assert metrics["time_s_per_token.link"] == metrics["itl_s.mean"]
    assert metrics["simulated_s"] == pytest.approx(105e-9)
    assert metrics["hit_rate"] == (0 + 1 + 2 + 0 + 1) / 20
    assert metrics["prefill.hit_rate"] == 1 / 8
    assert metrics["decode.hit_rate"] == 3 / 12
    # shares 0, 1/4, 2/4 of steps of 2, 1, 2 tokens, then 0, 1/4 of steps of 2, 1 tokens
    assert metrics["lost_gate_mass"] == pytest.approx((0.25 + 1.0 + 0.25) / 8)
    assert metrics["degraded_gate_mass"] == pytest.approx((0.25 + 1.0 + 0.25) / 16)


def test_the_clock_of_a_request_starts_with_its_batch():
    table = StepTable(replay_of(random_trace(0, prompts=(0, 0), decodes=(2, 2)), "lru"))
    table.add(a_block([1, 1, 1], [1, 1, 1], [0, 0, 1], [10, 20, 5], group=[0, 0, 1]))
    table.add(a_block([1], [1], [1], [7], group=[1]))
    assert table.requests()["latency_s"] == pytest.approx([30e-9, 12e-9])
    assert table.requests()["group"].tolist() == [0, 1]
    assert np.isnan(table.requests()["ttft_s"]).all()


@pytest.mark.parametrize(("policy", "knobs"), [("importance", {}), ("lru", {"overflow": "hold"})])
def test_the_size_of_blocks_does_not_change_a_number(monkeypatch, policy, knobs):
    found = []
    for rows in (1, 6, 1000):
        monkeypatch.setattr("sim.workload.rows.BLOCK_ROWS", rows)
        sink = Kept()
        hardware = machine(gpu_memory_bytes_per_s=7e9, host_s_per_layer=3e-7)
        replay = replay_of(random_trace(4), policy, hardware, batch_size=2, slots_per_layer=3, **knobs)
        table = StepTable(replay, sink)
        table.run()
        steps_table = {name: np.concatenate([piece[name] for piece in sink.pieces]).tolist() for name in sink.pieces[0]}
        requests = {name: repr(column.tolist()) for name, column in table.requests().items()}
        found.append((table.metrics(), steps_table, requests))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["hit_rate"] > 0


def test_what_is_kept_equals_what_a_sink_gets():
    trace, sink = random_trace(2), Kept()
    kept, passed = StepTable(replay_of(trace, "lru")), StepTable(replay_of(trace, "lru"), sink)
    kept.run()
    passed.run()
    assert len(kept) == len(passed) == 13  # two prompts, 6 + 5 tokens
    assert kept.array().shape == (13, len(COLUMNS))
    for name, column in kept.columns().items():
        np.testing.assert_array_equal(column, np.concatenate([piece[name] for piece in sink.pieces]))
    with pytest.raises(ValueError, match="sink"):
        passed.columns()


def test_a_table_has_the_same_bytes_however_it_came(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.results.table_file.ROW_GROUP", 4)
    columns = {"step": np.arange(11), "share": np.linspace(0, 1, 11)}
    for piece in (1, 3, 11):
        with TableFile(tmp_path / f"{piece}.parquet") as file:
            for start in range(0, 11, piece):
                file.write({name: column[start : start + piece] for name, column in columns.items()})
                assert not (tmp_path / f"{piece}.parquet").exists()
    whole = (tmp_path / "11.parquet").read_bytes()
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes() == whole
    read = pq.ParquetFile(tmp_path / "1.parquet")
    assert read.num_row_groups == 3
    np.testing.assert_array_equal(read.read()["share"].to_numpy(), columns["share"])


def test_a_table_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.results.table_file.ROW_GROUP", 1)
    with pytest.raises(RuntimeError), TableFile(tmp_path / "a.parquet") as file:
        file.write({"step": np.arange(3)})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
