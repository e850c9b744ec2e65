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


def reach(errors: Sequence[float], groups: Sequence[Hashable], coverage: float = COVERAGE) -> float | None:
    """The size that a new error stays below with probability ``coverage``, by the sizes of earlier ones.

    ``groups``: which errors were made together; a new one is taken to be of another group. With so few groups that no
    rank reaches the coverage, the error is taken as normal about 0: Student's t on the root mean square. None without
    errors.
    """
    if not errors:
        return None
    counts = Counter(groups)
    weights = np.array([1.0 / counts[group] for group in groups])
    sizes = np.abs(np.asarray(errors, np.float64))
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(weights[order]) >= coverage * (len(counts) + 1) - 1e-12
    if reached.any():
        return float(sizes[order][int(np.argmax(reached))])
    mean_square = float((weights * sizes**2).sum() / weights.sum())
    quantile = float(stats.t.ppf((1 + coverage) / 2, len(counts)))
    return quantile * float(np.sqrt(mean_square * (1 + 1 / len(counts))))
