"""Published series over several tiers: every point is stated once, and calibration takes at most two of a series."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from scripts.studies.tiers.__main__ import page, rows
from scripts.studies.tiers.choices import chosen, errors_of, every_choice
from scripts.studies.tiers.left_out import CORPUS, LEFT_OUT, candidates, used
from scripts.studies.tiers.published import BOYLE, SERIES
from scripts.studies.tiers.series import Point, Protocol, Series
from scripts.studies.tiers.simulate import fitted, machine_of, replayed, sizes_of
from sim.paths import ROOT

ONE = Series(
    "one", "none", (), "Qwen3-30B-A3B", "Q4_K_M", "qwen3_30b_a3b_phone", "m5_max", "mlx_ssd", "mlx_ssd",
    (Point("half", 9.0, 0.5, calibrates=True), Point("quarter", 5.0, 0.25)), fits=("storage",),
)  # fmt: skip


def test_no_series_calibrates_on_more_than_two_of_its_points_or_fits_more_than_them():
    for series in SERIES:
        used_points = sum(point.calibrates for point in series.points)
        assert used_points == len(series.fits)
        assert used_points + (series.until_hits is not None) <= 2
        assert used_points < len(series.points)


def test_every_series_of_the_corpus_on_several_tiers_is_used_or_left_out_once():
    left = [name for names in LEFT_OUT.values() for name in names]
    assert len(left) == len(set(left))
    assert not set(left) & set(used())
    assert set(candidates()) == set(left) | set(used()) - {"imp_qwen30_q4km"}


def test_points_state_the_speeds_of_their_rows():
    with (CORPUS / "corpus.csv").open(newline="") as file:
        text = {}
        for row in csv.DictReader(file):
            said = f"{row['decode_tok_s']} {row['quote_of_figures_only']} {row['remarks']} {row['placement_value']}"
            text[row["series_id"]] = text.get(row["series_id"], "") + said + " "
    for series in SERIES:
        found = "".join(text[name] for name in series.rows)
        for point in series.points if series.rows else ():
            assert f"{point.measured:g}" in found, f"{series.name} {point.label}"


def test_calibrating_points_are_met_and_a_lower_rate_of_storage_is_slower():
    values = fitted(ONE, {})
    half, quarter = (1 / replayed(ONE, point, values)["seconds"] for point in ONE.points)
    assert half == pytest.approx(9.0, rel=1e-3) and quarter < half


def test_a_cold_run_misses_what_it_never_used_before_however_many_slots_there_are():
    # `boyle bench`: all experts have slots, and none is there when the process starts
    cold = replace(ONE, protocol=BOYLE, points=(Point("all", 9.0, 1.0), Point("most", 9.0, 0.9)))
    whole, most = (replayed(cold, point, {}) for point in cold.points)
    assert whole["hit_rate"] == most["hit_rate"] < 1
    assert replayed(replace(cold, protocol=Protocol(13, 95, 32, "warm")), cold.points[0], {})["hit_rate"] == 1


def test_layers_on_the_gpu_cost_their_launches():
    series = next(one for one in SERIES if one.name == "llama_cpp_27742")
    point, machine = series.points[1], machine_of(series, {"graph_launch_s": 1e-3})
    with_launches, without = (
        sizes_of(series, point, machine_of(series, {"graph_launch_s": value})).other_bytes for value in (1e-3, 0.0)
    )
    # ten layers of a millisecond each at the rate at which the GPU reads
    rate = machine.hardware.gpu_memory_bytes_per_s * machine.runtime.gpu_memory_share
    assert with_launches - without == pytest.approx(10 * 1e-3 * rate)


def test_errors_stay_as_published_on_the_page():
    with (ROOT / "docs" / "results" / "tiers.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    errors = [abs(float(line["error_percent"])) for line in lines if line["use"] == "predicted"]
    assert len(lines) == sum(len(series.points) for series in SERIES)
    assert len(errors) == 17 and np.median(errors) < 9.6 and max(errors) < 43


def test_every_choice_calibrates_on_as_many_points_and_predicts_the_others():
    choices = [[point.label for point in one.points if point.calibrates] for one in chosen(ONE)]
    assert choices == [["half"], ["quarter"]]
    assert set(errors_of(ONE, {}) or {}) == {"quarter"}
    # Slots for all experts and for all but one are the same to the model, and stated as 9 and 5 tokens/s.
    level = replace(ONE, fits=("storage", "readback_s"), points=tuple(replace(p, calibrates=True) for p in ONE.points))
    alike = replace(level, points=(replace(level.points[0], slots=1.0), replace(level.points[1], slots=0.999)))
    assert errors_of(alike, {}) is None


@pytest.mark.slow
def test_the_page_is_what_the_study_writes():
    text = (ROOT / "docs" / "results" / "tiers.md").read_text()
    assert text == page(list(rows()), every_choice())
