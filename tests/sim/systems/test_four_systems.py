"""The side-by-side table: what its rows must have in common, and the arithmetic that can be checked by hand."""

import math
from dataclasses import asdict

import pandas as pd
import pytest

from sim.assembly.compose import compose_run
from sim.figures.registry import figures_of
from sim.figures.style import said_of
from sim.paths import ROOT
from sim.report.system_runs import system_runs
from sim.run.execute import execute
from sim.systems.four_systems.bench import ENERGY, Bench, Row
from sim.systems.four_systems.run import FILE, collected, read_table, table
from traces.errors import UserError


@pytest.fixture(scope="module")
def bench():
    return Bench(compose_run("engine=compiled", "trace.fit_requests=6"), draws=3)


def test_energy_by_hand():
    row = Row("x", 1.0, 1.0, 1.0, None, 0.0, "", 1e9, 2e9, 3e9, 4e9, 0.0, "network")
    expected = 1e9 * 2.4e-10 + 2e9 * 8e-9 + 3e9 * 6e-11 + 4e9 * 1e-12
    assert row.energy_j == pytest.approx(expected)
    assert set(ENERGY) >= {"network_j_per_byte", "package_j_per_byte"}


def test_a_package_with_endless_memory_bandwidth_costs_what_the_device_costs_without_its_experts(bench):
    """What is left is arithmetic, and under streaming the way of every expert over the links between dies."""
    baseline, streaming = bench.package("endless", 1e18)
    over_one_link_s = 36 * bench.expert_bytes / 288e9
    assert bench.dense_s < baseline.tpot_s < 1.08 * bench.dense_s
    assert bench.dense_s < streaming.tpot_s < bench.dense_s + over_one_link_s
    for row in (baseline, streaming):
        assert row.link_bytes == pytest.approx(36 * bench.expert_bytes)


@pytest.mark.slow
def test_od_moe_loads_every_routed_expert_and_keeps_its_results(bench):
    row = bench.od_moe(2, "1 Gb/s", 117.6e6)
    assert row.link_bytes >= 36 * bench.expert_bytes * 0.999
    assert row.lost == 0.0
    assert row.tpot_s > bench.dense_s / 2


def test_the_device_rows_are_those_of_run(bench):
    resident, lru = bench.device("all resident", "policy=all_resident"), bench.device("LRU", "policy=lru")
    assert resident.tpot_s < lru.tpot_s and resident.memory_bytes > lru.memory_bytes
    assert resident.link_bytes == 0.0
    assert [line.split()[0] for line in table([resident, lru])] == ["system", "all", "LRU"]


def test_the_figure_is_drawn_from_the_table_that_is_written(tmp_path):
    table = ROOT / "docs" / "results" / "four_systems.csv"
    ((_, figure),) = figures_of(table, ["four_systems"], 2)
    times = [bar.get_width() for bar in figure.axes[0].patches]
    assert sorted(times) == times and len(times) == len(read_table(table))
    assert "least bytes: SMoE" in said_of(figure).conclusion
    (tmp_path / FILE).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"four_systems\.csv is no table of system=four_systems"):
        list(figures_of(tmp_path, ["four_systems"], 2))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / FILE).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="holds 2 tables of systems: name the folder of one"):
        list(figures_of(tmp_path, ["four_systems"], 2))


@pytest.mark.slow
def test_one_run_gives_the_table_on_the_machine_of_the_run(tmp_path):
    words = ("system=four_systems", "engine=compiled", "hardware=rtx4090", "system.draws=2", "trace.requests=4")
    done = execute(compose_run(*words, "cache.fraction=0.5"), tmp_path)
    rows = read_table(tmp_path / FILE)
    assert [row.tpot_s for row in rows] == sorted(row.tpot_s for row in rows)
    names = [row.system for row in rows]
    assert {"all resident", "LRU", "SMoE", "MoE-Beyond"} <= set(names)
    assert sum(name.startswith(("OD-MoE", "Expert Streaming")) for name in names) == 5
    assert "hardware rtx4090" in done.text and "comparable with runs of `policy=...`" in done.text
    assert done.in_sweep in done.text and "SMoE" in done.in_sweep
    same = ("policy=lru", *words[1:3], "trace.requests=4", "trace.fit_requests=1", "cache.fraction=0.5")
    alone = execute(compose_run(*same), tmp_path / "lru")
    assert next(row.tpot_s for row in rows if row.system == "LRU") == alone.metrics["tpot_s.mean"]
    assert system_runs(tmp_path)[0].system == "four_systems"


def test_a_system_that_the_trace_has_no_room_for_is_left_out_with_its_reason():
    def refuse():
        raise UserError("it lacks scores")

    row = Row("x", 1.0, 1.0, 1.0, None, 0.0, "", 0.0, 0.0, 0.0, 0.0, 0.0)
    assert collected([("a", lambda: [row]), ("b", refuse)]) == ([row], ["b: it lacks scores"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["batch_size=2"], "batch_size=2: system=four_systems serves one request at a time"),
        (["system.draws=0"], "system.draws=0: must be from 1 to 100000"),
        (["what_if=true"], "timeline and what_if: only for system=device"),
    ],
)
def test_what_it_cannot_do_is_refused(words, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        execute(compose_run("system=four_systems", *words), tmp_path)


def test_one_request_has_no_interval_and_is_written_and_drawn(tmp_path):
    row = Row("x", 1.0, math.nan, math.nan, None, 0.0, "1 GPU", 0.0, 0.0, 0.0, 0.0, 0.0)
    assert table([row])[1].split() == ["x", "1000.0", "-", "0.00", "0", "0", "0.0%"]
    frame = pd.DataFrame([asdict(row) | {"energy_j": row.energy_j}])
    frame.to_csv(tmp_path / FILE, index=False)
    ((_, figure),) = figures_of(tmp_path, ["four_systems"], 2)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1000.0]
