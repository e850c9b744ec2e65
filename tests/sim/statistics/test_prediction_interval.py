"""Prediction intervals from others' errors: known answers by hand, and coverage of errors that are drawn."""

import numpy as np
import pytest
from scipy import stats

from sim.statistics.prediction_interval import reach


def test_many_groups_give_a_rank_and_few_students_t() -> None:
    errors = [0.01 * (i + 1) for i in range(19)]
    assert reach(errors, range(19)) == pytest.approx(0.18)  # 18 of 20 ranks
    few = reach([0.03, -0.04], ["a", "b"])
    root_mean_square = np.sqrt((0.03**2 + 0.04**2) / 2)
    assert few == pytest.approx(stats.t.ppf(0.95, 2) * root_mean_square * np.sqrt(1.5))
    assert reach([], []) is None


def test_a_group_counts_as_one_however_many_errors_it_has() -> None:
    lone = [0.01 * (i + 1) for i in range(19)]
    assert reach([*lone, *[5.0] * 1000], [*range(19), *["a"] * 1000]) == pytest.approx(0.19)
    assert reach([*lone, *[0.0] * 1000], [*range(19), *["a"] * 1000]) == pytest.approx(0.18)


@pytest.mark.parametrize("groups", [3, 8, 30])
def test_nine_of_ten_new_errors_lie_inside(groups: int) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        errors = rng.normal(0, 0.2, groups + 1)
        size = reach(errors[:-1].tolist(), range(groups))
        assert size is not None
        inside += abs(errors[-1]) <= size
    assert 0.87 < inside / 1000 < 0.94
