"""The side-by-side table: what its rows must have in common, and the arithmetic that can be checked by hand."""

import pytest

from scripts.studies.systems.bench import ENERGY, Bench, Row
from scripts.studies.systems.four_systems import best_of, main, read_table, table
from sim.paths import ROOT
from traces.errors import UserError


@pytest.fixture(scope="module")
def bench():
    return Bench("s1_rtx3080ti", capacity=0.25, draws=3)


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
    text = table([resident, lru], {})
    assert text.count("unchanged") == 2 and "SIMULATED" not in text


def test_the_figure_is_drawn_from_the_table_that_is_written(tmp_path):
    main(["--redraw", str(ROOT / "docs" / "results" / "four_systems.csv"), "--out", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".svg"}
    rows = read_table(ROOT / "docs" / "results" / "four_systems.csv")
    assert rows[0].system == "all resident" and "least bytes: SMoE" in best_of(rows)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"--redraw .*other\.csv: no table of this study"):
        main(["--redraw", str(tmp_path / "other.csv")])


@pytest.mark.slow
def test_a_file_that_is_not_a_result_of_quality_is_refused(tmp_path):
    (tmp_path / "q.json").write_text("[]")
    with pytest.raises(UserError, match=r"not a quality\.json"):
        main(["--draws", "1", "--quality", str(tmp_path / "q.json")])
