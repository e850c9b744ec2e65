"""What the numbers of a finished run claim by their names: shares are in [0, 1], nothing is negative, parts sum up.

Everything follows from the registry of metrics and from the names of the parts and counters: a new one joins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sim.engine.decision.counters import COUNTERS, NUM_OUTCOMES
from sim.machine.parts import PARTS
from sim.metrics.registry import FRACTION, QUANTILES, QUANTITIES, TOTALS

SHARES = {name for name, quantity in QUANTITIES.items() if quantity.metric.unit is FRACTION}
SHARES |= {total.name for total in TOTALS if total.unit is FRACTION} | {"capacity_fraction"}
CLOSE = 1e-9
"""Relative error that sums of rounded floats may have."""


def contradictions(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Each number of a metrics.json that cannot be what its name says, in words."""
    for name, value in metrics.items():
        if not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0:
            yield f"{name}={value} is no amount"
        elif name in SHARES and value > 1 + CLOSE:
            yield f"{name}={value} is no share"
    yield from _quantiles(metrics)
    yield from _parts(metrics)


def _quantiles(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name in (name.removesuffix(".mean") for name in metrics if name.endswith(".mean")):
        values = [metrics.get(f"{name}.{key}") for key in QUANTILES]
        if None not in values and values != sorted(values):  # type: ignore[type-var]
            yield f"the quantiles of {name} fall: {values}"


def _parts(metrics: Mapping[str, Any]) -> Iterator[str]:
    whole = metrics.get("itl_s.mean")
    names = (f"time_s_per_token.{part}" for part in PARTS)
    parts = [metrics[name] for name in names if name in metrics]
    if whole is not None and None not in parts and not _close(sum(parts), whole):
        yield f"the parts of a token's time sum to {sum(parts)}, not to itl_s.mean={whole}"


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)


def contradictory_tables(folder: Path) -> Iterator[str]:
    """Each column of the tables of a run that cannot be what its name says, in words."""
    import numpy as np
    import pandas as pd

    for path in sorted(folder.glob("*.parquet")):
        table = pd.read_parquet(path)
        for name in table.columns:
            column = table[name]
            if column.dtype.kind in "if" and (column.dropna() < 0).any():
                yield f"{path.name}: {name} falls below 0"
        if "latency_ns" in table and {f"{part}_ns" for part in PARTS} <= {*table.columns}:
            parts = table[[f"{part}_ns" for part in PARTS]].sum(axis=1)
            if not np.isclose(parts, table["latency_ns"], rtol=CLOSE, atol=0).all():  # sums of steps are floats
                yield f"{path.name}: parts do not sum to latency_ns"
        if {*COUNTERS} <= {*table.columns} and (
            table[[*COUNTERS[:NUM_OUTCOMES]]].sum(axis=1) != table["demanded"]
        ).any():
            yield f"{path.name}: outcomes do not sum to demanded"
