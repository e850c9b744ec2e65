"""The rows of the comparison table: cells with what they sort by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sim.report.comparison import TIME, Comparison, is_bound
from sim.report.words import NOTHING, interval, known, shown


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, what it means, the metric it shows, the factor and the form of its numbers."""

    heading: str
    title: str
    metric: str
    scale: float = 1.0
    form: str = ".1f"


COLUMNS = (
    Column("TPOT ms", "time per output token, mean over requests [95 %]", "tpot_s.mean", 1e3, ".2f"),
    Column("hit rate %", "demanded experts that were resident, before substitution [95 %]", "hit_rate", 100.0),
    Column("cache ratio %", "resident executions over executions, decode [95 %]", "decode.cache_ratio", 100.0),
    Column("copied MB/token", "bytes over the link per token [95 %]", "bytes_per_token", 1e-6),
    Column("lost gate mass %", "router weight not executed as routed, decode [95 %]", "decode.lost_gate_mass", 100.0),
    Column("TTFT ms", "time to first token, mean over requests [95 %]", "ttft_s.mean", 1e3),
)
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
    first = [("policy", "the policy and the settings in which the runs differ"), ("capacity %", "share of all experts")]
    against = "time per output token over that of the best under the same conditions [95 %], same requests"
    chance = "chance of such a difference between equals, two-sided, corrected for all pairs by Holm"
    mark = "best, not distinguishable from it (p of .05 or more), or bound: no live system is so"
    filled = [(column.heading, column.title) for column in _filled(table)]
    return [first[0], ("mark", mark), first[1], *filled, ("against best", against), ("p", chance)]


def rows(table: pd.DataFrame, found: Sequence[Comparison]) -> list[Row]:
    """One row per run, in the order of conditions and then of the metric; equal runs once."""
    pairs = {(str(one.best["conditions"]), pair["series"]): pair for one in found for _, pair in one.pairs.iterrows()}
    best = {(str(one.best["conditions"]), one.best["series"]) for one in found}
    bound = dict(zip(table.index, is_bound(table), strict=True))
    once = table.drop_duplicates(["conditions", "series"])
    ranked = once.sort_values(["conditions", TIME if once[TIME].notna().any() else "hit_rate"], kind="stable")
    result = []
    for index, run in ranked.iterrows():
        key = (str(run["conditions"]), run["series"])
        pair = pairs.get(key)
        mark = BEST if key in best else BOUND if bound[index] else _mark(pair)
        cells = [Cell(str(run["name"]), str(run["name"])), _cell(run["capacity"], 100.0, ".1f")]
        cells += [_metric(run, column) for column in _filled(table)]
        result.append(Row((*cells, _ratio(pair), _p_value(pair)), mark))
    return result


def _filled(table: pd.DataFrame) -> list[Column]:
    return [column for column in COLUMNS if column.metric in table and table[column.metric].notna().any()]


def _mark(pair: Any) -> str:
    if pair is None or not known(pair["p_holm"]):
        return ""
    return "" if pair["distinguishable"] else EQUAL


def _cell(value: object, scale: float, form: str) -> Cell:
    number = float(value) if isinstance(value, int | float) and known(value) else None
    return Cell(shown(value, scale, form), number)


def _metric(run: Any, column: Column) -> Cell:
    cell = _cell(run[column.metric], column.scale, column.form)
    stem = column.metric.removesuffix(".mean")
    ends = interval(run.get(f"{stem}.low"), run.get(f"{stem}.high"), column.scale, column.form)
    return Cell(cell.text, cell.sort, ends.strip() if cell.text != NOTHING else "")


def _ratio(pair: Any) -> Cell:
    if pair is None or not known(pair["ratio"]):
        return Cell(NOTHING, None)
    ends = [float(pair[f"ratio_{end}"]) - 1 for end in ("low", "high")]
    return Cell(
        f"{100 * (pair['ratio'] - 1):+.1f} %", float(pair["ratio"]), interval(ends[0], ends[1], 100.0, "+.1f").strip()
    )


def _p_value(pair: Any) -> Cell:
    if pair is None or not known(pair["p_holm"]):
        return Cell(NOTHING, None)
    p = float(pair["p_holm"])
    return Cell("< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0"), p)
