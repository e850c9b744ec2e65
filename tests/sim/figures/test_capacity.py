"""Lines over capacity: which, with which intervals, and what is level, grey or refused."""

import numpy as np
import pandas as pd
import pytest

from sim.figures.drawing import MissingData
from sim.figures.drawings.attribution import attribution
from sim.figures.drawings.capacity import capacity, hit_rates
from sim.machine.parts import PARTS
from tests.support.tables import footnote_of, legend, run, study_of, words


@pytest.fixture
def sweep() -> pd.DataFrame:
    rates = {"lru": (0.2, 0.4, 0.6), "belady": (0.4, 0.6, 0.8)}
    rows = [
        run(name, 50 - 20 * rate, capacity=share, eviction=name,
            **{"decode.hit_rate": rate, "hit_rate": rate, "hit_rate.low": rate - 0.1, "hit_rate.high": rate + 0.05})
        for name, found in rates.items() for share, rate in zip((0.1, 0.2, 0.5), found, strict=True)
    ]  # fmt: skip
    everything = {"hit_rate": 1.0, "hit_rate.low": 1.0, "hit_rate.high": 1.0, "decode.hit_rate": 1.0}
    return study_of(*rows, run("all_resident", 20.0, capacity=1.0, **everything))


def test_capacity_draws_what_the_table_says(sweep):
    hits, times = capacity(sweep, 2).axes
    assert hits.get_ylabel() == "Hit rate, decode steps (%)"
    assert times.get_ylabel() == "Time per output token (ms)"
    assert times.get_xlabel() == "Cache capacity (% of all experts)"
    handles, names = hits.get_legend_handles_labels()
    assert names == ["all_resident", "belady", "lru"]
    np.testing.assert_allclose(handles[2].lines[0].get_xydata(), [[10, 20], [20, 40], [50, 60]])
    (bars,) = handles[2].lines[2]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[18, 22], [36, 44], [54, 66]])
    level = next(line for line in times.lines if line.get_label() == "all_resident")
    assert set(level.get_ydata()) == {20.0}


def test_rules_that_see_the_future_are_grey_and_the_gap_is_shaded(sweep):
    figure = hit_rates(sweep, 1)
    (panel,) = figure.axes
    assert panel.get_ylabel() == "Hit rate, decode steps (%)"
    assert legend(figure) == ["gap to Belady", "belady", "lru"]  # all_resident does not belong to a curve
    (gap,) = (shape for shape in panel.collections if shape.get_label() == "gap to Belady")
    lows_and_highs = {tuple(point) for point in gap.get_paths()[0].vertices.round(6)}
    assert {(10, 20), (10, 40), (50, 60), (50, 80)} <= lows_and_highs
    assert "Grey: rules that see the future." in footnote_of(figure)


@pytest.mark.parametrize("draw", [capacity, hit_rates])
def test_one_capacity_is_no_curve(draw):
    with pytest.raises(
        MissingData, match=r"at two capacities at least: python -m sim run -m policy=.*cache\.fraction="
    ):
        draw(study_of(run("lru"), run("belady")))


def test_attribution_stacks_to_the_whole():
    seconds = {f"time_s_per_token.{part}": (index + 1) / 1e3 for index, part in enumerate(PARTS)}
    table = study_of(run("lru", **seconds), run("belady", **seconds), run("lru", capacity=0.5, **seconds))
    panels = attribution(table, 2).axes
    assert [panel.get_title(loc="left") for panel in panels] == [
        "capacity 25 % of the experts",
        "capacity 50 % of the experts",
    ]
    ends = [max(bars[row].get_x() + bars[row].get_width() for bars in panels[0].containers) for row in range(2)]
    np.testing.assert_allclose(ends, 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8)
    assert words(panels[0]) == ["36.00", "36.00"]
    assert panels[1].get_xlabel() == "Time per decode token (ms)"
    with pytest.raises(MissingData, match="lacks time_s_per_token"):
        attribution(table[["series", "capacity"]], 2)


def test_swept_capacities_are_ticks_and_equal_lines_are_drawn_aside():
    rows = [run(name, 40.0, capacity=share) for name in ("lru", "mine") for share in (0.125, 0.25)]
    _, times = capacity(study_of(*rows), 1).axes
    assert [tick.get_text() for tick in times.get_xticklabels()] == ["12.5", "25"]
    low, high = times.get_xlim()
    assert low < 12.5 and high > 25 and low > 10
    places = [handle.lines[0].get_transform().transform((25.0, 40.0))[0] for handle in
              times.get_legend_handles_labels()[0]]  # fmt: skip
    assert places[0] < places[1] < places[0] + 10
