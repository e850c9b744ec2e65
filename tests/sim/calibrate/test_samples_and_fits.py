"""Which samples count, what their mean is worth, and small fits with known answers."""

import numpy as np
import pytest

from sim.calibrate.fits import fit_costs, line
from sim.calibrate.samples import Sample, estimate, gate
from sim.execution.load import Load


def sample(share, value=1.0, kind="copy", load=None):
    return Sample(kind, 0, {"seconds": value}, load or Load(share, 0.0))


def test_samples_beside_foreign_load_are_dropped():
    gated = gate([sample(0.01), sample(0.02), sample(0.5), sample(0.03), sample(0.0, kind="cpu")], "copy", 0.1)
    assert [s.load.foreign_share for s in gated.kept] == [0.01, 0.02, 0.03]
    assert (gated.dropped, gated.quiet) == (1, True)


def test_of_a_loud_machine_the_least_disturbed_are_kept():
    gated = gate([sample(share) for share in (0.9, 0.05, 0.5, 0.4, 0.8)], "copy", 0.1)
    assert sorted(s.load.foreign_share for s in gated.kept) == [0.05, 0.4, 0.5]
    assert (gated.dropped, gated.quiet) == (2, False)


def test_what_was_taken_together_is_kept_together():
    loads = [Load(share, 0.0) for share in (0.9, 0.5, 0.4, 0.8)]
    gated = gate([sample(0, value, load=load) for load in loads for value in (1.0, 2.0)], "copy", 0.1)
    assert gated.values("seconds").tolist() == [1.0, 2.0] * 3


def test_unknown_load_drops_nothing():
    assert gate([sample(0, load=Load(None, None))] * 4, "copy", 0.0).dropped == 0


def test_a_mean_by_hand():
    mean = estimate(np.array([1.0, 2.0, 3.0, 6.0]), np.array([0, 0, 1, 1]))
    assert mean.mean == 3.0
    assert mean.std == pytest.approx(np.sqrt(14 / 3))
    # rounds' means 1.5 and 4.5: std 2.12, over sqrt 2 = 1.5, above 2.16 / 2 of independent samples
    assert mean.error == pytest.approx(1.5)
    assert np.isnan(estimate(np.array([1.0]), np.array([0])).error)
    assert estimate(np.empty(0), np.empty(0)).count == 0


def test_a_line_through_points():
    fitted = line(np.array([1.0, 2.0, 4.0]), np.array([5.0, 7.0, 11.0]))
    assert (fitted.intercept, fitted.slope) == (pytest.approx(3.0), pytest.approx(2.0))


def test_a_time_has_no_negative_intercept():
    fitted = line(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert fitted.intercept == 0.0
    assert 1.0 < fitted.slope < 1.5


def test_costs_hidden_behind_waiting_are_found():
    """At the start the third run waits for what b costs; with the true costs it does not."""

    def predict(costs):
        return np.array([5 + costs[0], 5 + costs[0] + costs[1], max(4 + costs[0], 3 + 2 * costs[1])])

    costs, _, residuals = fit_costs(predict, predict(np.array([2.0, 0.5])), np.array([0.0, 3.0]), np.full(2, 1e-3))
    assert costs == pytest.approx([2.0, 0.5], abs=1e-4)
    assert np.abs(residuals).max() < 1e-4


def test_costs_are_never_negative():
    costs, _, _ = fit_costs(lambda c: np.array([10 + c[0]]), np.array([8.0]), np.zeros(1), np.ones(1))
    assert costs == pytest.approx([0.0], abs=1e-9)
