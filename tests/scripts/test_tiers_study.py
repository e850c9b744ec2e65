"""Published series over several tiers: every point is stated once, and calibration takes at most two of a series."""

import pytest

from scripts.studies.tiers.__main__ import fitted, page, replayed, rows
from scripts.studies.tiers.series import SERIES, Point, Series
from sim.paths import ROOT


def test_no_series_calibrates_on_more_than_two_of_its_points_or_fits_more_than_them():
    for series in SERIES:
        used = sum(point.calibrates for point in series.points)
        assert used == len(series.fits) <= 2
        assert used < len(series.points)


def test_calibrating_points_are_met_and_a_lower_rate_of_storage_is_slower():
    series = Series(
        "one", "none", "Qwen3-30B-A3B", "Q4_K_M", "qwen3_30b_a3b_phone", "m5_max", "mlx_ssd", "mlx_ssd",
        (Point("half", 9.0, 0.5, calibrates=True), Point("quarter", 5.0, 0.25)), fits=("storage",),
    )  # fmt: skip
    values = fitted(series, {})
    half, quarter = (1 / replayed(series, point, values)["seconds"] for point in series.points)
    assert half == pytest.approx(9.0, rel=1e-3) and quarter < half


@pytest.mark.slow
def test_the_page_is_what_the_study_writes():
    text = (ROOT / "docs" / "results" / "tiers.md").read_text()
    assert text == page(list(rows()))
