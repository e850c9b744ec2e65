"""Tokens per second across from a time per token: round rates, apart from each other, only where they are true."""

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sim.figures.rates import LABEL, add_rates, rate_name, rates_between


def rates(low, high, amount=1000.0, place=float):
    return [round(amount / time, 6) for time in rates_between(low, high, amount, place)]


def test_rates_are_round_and_apart():
    """From 0 to 50 ms: 20, 30 (33.3 ms), 40 (25 ms), not 50 (20 ms is too near), 70 (14.3 ms), 150; none next to 0."""
    assert rates(0.0, 50.0) == [20, 30, 40, 70, 150]
    assert rates(10.0, 20.0) == [50, 70, 100]
    assert rates(0.0, 50.0, amount=3000.0) == [70, 100, 150, 300, 1000]
    assert rates(0.0, 0.0) == rates(-2.0, -1.0) == []


@pytest.mark.parametrize(("rate", "name"), [(3000.0, "3,000"), (150.0, "150"), (1.5, "1.5"), (0.02, "0.02")])
def test_a_rate_has_no_power_of_ten(rate, name):
    assert rate_name(rate) == name


def labels(batches, metric="tpot_s.mean", **options):
    panel = Figure().subplots()
    panel.set_ylim(0, 50)
    add_rates(panel, pd.DataFrame({"batch_size": batches}), metric, **options)
    FigureCanvasAgg(panel.figure).draw()
    return [(child.get_ylabel(), [tick.get_text() for tick in child.get_yticklabels()]) for child in panel.child_axes]


def test_the_right_axis_names_them():
    assert labels([1, 1]) == [(LABEL, ["20", "30", "40", "70", "150"])]
    assert labels([3, 3], "itl_s.mean") == [(LABEL, ["70", "100", "150", "300", "1,000"])]
    assert labels([1], named=False)[0][0] == ""


def test_no_rate_where_it_would_be_none():
    """Batches of several sizes; in a batch, a request's TPOT holds other requests' prefills."""
    assert labels([1, 3]) == labels([3]) == labels([]) == []


def test_rates_beyond_the_runs_are_not_named_and_a_part_of_the_layers_is_said():
    assert [round(1000 / time) for time in rates_between(0.0, 50.0, 1000.0, float, (20.0, 40.0))] == [30, 40]
    panel = Figure().subplots()
    panel.set_ylim(0, 50)
    runs = {"batch_size": [1, 1], "tpot_s.mean": [0.025, 0.04], "layers": [6, 6], "model_layers": [27, 27]}
    add_rates(panel, pd.DataFrame(runs), "tpot_s.mean")
    FigureCanvasAgg(panel.figure).draw()
    (child,) = panel.child_axes
    assert child.get_ylabel() == f"{LABEL}\n(6/27 layers)"
    assert [tick.get_text() for tick in child.get_yticklabels()] == ["30", "40"]
