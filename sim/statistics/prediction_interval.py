"""Prediction intervals from errors made on others: conformal where there are enough of them, else Student's t.

An interval that is to hold a new measurement must hold whatever made earlier predictions miss: calibration, another
prompt, noise of the run. The size of those misses is the one honest source. Errors come in groups (a machine, a GPU)
whose members are alike, so a group counts as one. Source: split conformal prediction (Vovk et al. 2005; Angelopoulos
and Bates 2021, arXiv 2107.07511) with weights (Tibshirani et al. 2019, arXiv 1904.06019).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

COVERAGE = 0.9
MOST_BEYOND = 0.05
"""A rank among n groups covers up to 1 / (n + 1) more than is asked for; where that is above this, it is not taken."""


def reach(errors: Sequence[float], groups: Sequence[Hashable], coverage: float = COVERAGE) -> float | None:
    """The size that a new error stays below with probability ``coverage``, by the sizes of earlier ones.

    ``groups``: which errors were made together; a new one is taken to be of another group. With so few groups that a
    rank covers much more than is asked for, or that none reaches it, the error is taken as normal about 0: Student's t
    on the root mean square. None without errors.
    """
    if not errors:
        return None
    counts = Counter(groups)
    weights = np.array([1.0 / counts[group] for group in groups])
    sizes = np.abs(np.asarray(errors, np.float64))
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(weights[order]) >= coverage * (len(counts) + 1) - 1e-12
    if reached.any() and 1 / (len(counts) + 1) <= MOST_BEYOND:
        return float(sizes[order][int(np.argmax(reached))])
    mean_square = float((weights * sizes**2).sum() / weights.sum())
    quantile = float(stats.t.ppf((1 + coverage) / 2, len(counts)))
    return quantile * float(np.sqrt(mean_square * (1 + 1 / len(counts))))
