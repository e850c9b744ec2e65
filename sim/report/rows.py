"""The rows of the comparison table: cells with what they sort by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sim.formatting import interval, is_known, number
from sim.metrics.registry import Column, column_of, decode_time, quantity_of
from sim.report.comparison import Comparison, is_bound, ranking_metric
from sim.results.table import bounds_of

COLUMNS = tuple(
    column_of(name)
    for name in (
        "tpot_s.mean", "itl_s.mean", "hit_rate", "decode.cache_ratio", "bytes_per_token", "decode.lost_gate_mass",
        "ttft_s.mean",
    )
)  # fmt: skip
DASH = "–"
"""Stands for what is not known."""
BEST, EQUAL, BOUND = "best", "not distinguishable", "bound"


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows, with its interval, and the value it sorts by; None sorts last."""

    text: str
    sort: float | str | None
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One run: its cells, its mark (best, not distinguishable, bound, or none)."""

    cells: tuple[Cell, ...]
    mark: str


def headings(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(heading, what it means) of every column that some run fills."""
    against = "the time over that of the best under the same conditions [95 %], same requests"
    chance = "chance of such a difference between equals, two-sided, corrected for all pairs by Holm"
    mark = "best, not distinguishable from it (p of .05 or more), or bound: no live system is so"
    first = [("policy", "the policy and the settings in which the runs differ"), ("mark", mark)]
    filled = [(column.heading, meaning(column.name)) for column in _filled(table)]
    return [*first, ("capacity %", "share of all experts"), *filled, ("against best", against), ("p", chance)]


def meaning(name: str) -> str:
    """What a column shows, in one line."""
    steps = ", decode steps" if name.startswith("decode.") else ""
    return f"{quantity_of(name).metric.definition}{steps} [95 %]"


def rows(table: pd.DataFrame, comparisons: Sequence[Comparison]) -> list[Row]:
    """One row per run, in the order of conditions and then of the metric; equal runs once."""
    best = {(str(comparison.best["conditions"]), comparison.best["series"]) for comparison in comparisons}
    pairs = {
        (str(comparison.best["conditions"]), pair["series"]): pair
        for comparison in comparisons
        for _, pair in comparison.pairs.iterrows()
    }
    bound = dict(zip(table.index, is_bound(table), strict=True))
    once = table.drop_duplicates(["conditions", "series"])
    rows_of_runs = []
    for index, run in once.sort_values(["conditions", ranking_metric(once)], kind="stable").iterrows():
        key = (str(run["conditions"]), run["series"])
        pair = pairs.get(key)
        mark = BEST if key in best else BOUND if bound[index] else _mark(pair)
        cells = [Cell(str(run["name"]), str(run["name"])), _cell(run["capacity"], 100.0, ".1f")]
        cells += [_metric(run, column) for column in _filled(table)]
        rows_of_runs.append(Row((*cells, _ratio(pair), _p_value(pair)), mark))
    return rows_of_runs


def _filled(table: pd.DataFrame) -> list[Column]:
    first = decode_time(table["batch_size"])
    columns = sorted(COLUMNS, key=lambda column: column.name != first)
    if first == "tpot_s.mean":
        columns = [column for column in columns if column.name != "itl_s.mean"]
    return [column for column in columns if column.name in table and table[column.name].notna().any()]


def _mark(pair: Any) -> str:
    if pair is None or not is_known(pair["p_holm"]):
        return ""
    return "" if pair["distinguishable"] else EQUAL


def _cell(value: object, scale: float, form: str) -> Cell:
    return Cell(number(value, form, scale, unknown=DASH), float(value) if is_known(value) else None)


def _metric(run: Any, column: Column) -> Cell:
    cell = _cell(run[column.name], column.scale, column.form)
    low, high = (run.get(name) for name in bounds_of(column.name))
    return replace(cell, interval=interval(low, high, column.form, column.scale) if cell.text != DASH else "")


def _ratio(pair: Any) -> Cell:
    if pair is None or not is_known(pair["ratio"]):
        return Cell(DASH, None)
    ends = [float(pair[f"ratio_{end}"]) - 1 for end in ("low", "high")]
    return Cell(f"{100 * (pair['ratio'] - 1):+.1f} %", float(pair["ratio"]), interval(ends[0], ends[1], "+.1f", 100.0))


def _p_value(pair: Any) -> Cell:
    if pair is None or not is_known(pair["p_holm"]):
        return Cell(DASH, None)
    p = float(pair["p_holm"])
    return Cell("< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0"), p)
