"""The rows of the comparison table: cells with what they sort by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sim.figures.looks import bar_fill
from sim.formatting import interval, is_known, number
from sim.metrics.registry import column_of, decode_time, quantity_of
from sim.report.comparison import Comparison, is_bound, ranking_metric
from sim.results.table import bounds_of, rate_heading, tokens_per_s

FIRST, MORE = "first", "more"
"""Columns that are always shown, and those that fold out."""
COLUMNS = {
    "tpot_s.mean": FIRST, "itl_s.mean": FIRST, "decode.hit_rate": FIRST, "decode.lost_gate_mass": FIRST,
    "decode.cache_ratio": MORE, "bytes_per_token": MORE, "ttft_s.mean": MORE,
}  # fmt: skip
HEADINGS = {
    "tpot_s.mean": "TPOT, ms", "itl_s.mean": "decode step, ms", "decode.hit_rate": "hit rate, decode %",
    "decode.cache_ratio": "cache ratio, decode %", "bytes_per_token": "copied, all steps, MB/token",
    "decode.lost_gate_mass": "gate mass lost, decode %", "ttft_s.mean": "TTFT, ms",
}  # fmt: skip
DASH = "–"
"""Stands for what is not known."""
BEST, EQUAL, BOUND = "best", "not distinguishable", "bound"


@dataclass(frozen=True, slots=True)
class Heading:
    """A column: its heading, what it means, whether it is always shown, the name of what it holds."""

    text: str
    meaning: str
    shown: str = FIRST
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows, with its interval, and the value it sorts by; None sorts last."""

    text: str
    sort: float | str | None
    interval: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One run: its cells, its mark (best, not distinguishable, bound, or none), and what a reader chooses it by.

    `policy`: the contender; `capacity`: in percent of the experts; `place`: machine, workload and batch size where they
    differ; `color`: of its policy, as in the figures.
    """

    cells: tuple[Cell, ...]
    mark: str
    policy: str
    capacity: str
    place: str
    color: str


def headings(table: pd.DataFrame) -> list[Heading]:
    """The columns, those that matter first."""
    against = "the time over that of the best under the same conditions [95 %], same requests"
    chance = "chance of such a difference between equals, two-sided, corrected for all pairs by Holm"
    mark = "best, not distinguishable from it (p of .05 or more), or bound: no live system is so"
    filled = [(name, Heading(HEADINGS[name], meaning(name), COLUMNS[name], name)) for name in _filled(table)]
    first = [heading for _, heading in filled if heading.shown == FIRST]
    more = [heading for _, heading in filled if heading.shown == MORE]
    return [
        Heading("policy", "the policy and the settings in which the runs differ"),
        Heading("mark", mark),
        *first[:1],
        Heading(rate_heading(table), "tokens of all requests of a batch per second of decoding", FIRST, "tokens_per_s"),
        Heading("against best", against),
        *first[1:],
        *more,
        Heading("p", chance, MORE),
    ]


def meaning(name: str) -> str:
    """What a column shows, in one line."""
    steps = ", decode steps" if name.startswith("decode.") else ""
    return f"{quantity_of(name).metric.definition}{steps} [95 %]"


def rows(table: pd.DataFrame, comparisons: Sequence[Comparison]) -> list[Row]:
    """One row per run, in the order of capacity, place and then of the metric; equal runs once."""
    best = {(str(comparison.best["conditions"]), comparison.best["series"]) for comparison in comparisons}
    pairs = {
        (str(comparison.best["conditions"]), pair["series"]): pair
        for comparison in comparisons
        for _, pair in comparison.pairs.iterrows()
    }
    bound = dict(zip(table.index, is_bound(table), strict=True))
    once = table.drop_duplicates(["conditions", "series"]).assign(tokens_per_s=tokens_per_s)
    rows_of_runs = []
    for index, run in once.sort_values(["capacity", "place", ranking_metric(once)], kind="stable").iterrows():
        key = (str(run["conditions"]), run["series"])
        pair = pairs.get(key)
        mark = BEST if key in best else BOUND if bound[index] else _mark(pair)
        measured = {name: _metric(run, name) for name in _filled(table)}
        first = [measured[name] for name in measured if COLUMNS[name] == FIRST]
        more = [measured[name] for name in measured if COLUMNS[name] == MORE]
        rate = _cell(run["tokens_per_s"], 1.0, ".2f")
        cells = (_named(run), *first[:1], rate, _ratio(pair), *first[1:], *more, _p_value(pair))
        color, _ = bar_fill(once.loc[[index]])
        share = f"{100 * run['capacity']:.4g}"
        rows_of_runs.append(Row(cells, mark, str(run["contender"]), share, str(run["place"]), color))
    return rows_of_runs


IDLE = {"0": "Nothing kept", "100": "All experts resident"}
"""What is said instead of a capacity that is none."""


def grouped(found: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by capacity and place, each group with its words; bounds that use no capacity last."""
    groups: dict[str, list[Row]] = {}
    for row in found:
        words = {"0": "Nothing kept", "100": "All experts resident"}.get(
            row.capacity, f"{row.capacity} % of the experts"
        )
        groups.setdefault(", ".join(filter(None, [words, row.place])), []).append(row)
    return list(groups.items())


def _named(run: Any) -> Cell:
    return Cell(str(run["contender"]), str(run["name"]))


def _filled(table: pd.DataFrame) -> list[str]:
    first = decode_time(table["batch_size"])
    names = sorted(COLUMNS, key=lambda name: name != first)
    if first == "tpot_s.mean":
        names = [name for name in names if name != "itl_s.mean"]
    return [name for name in names if name in table and table[name].notna().any()]


def _mark(pair: Any) -> str:
    if pair is None or not is_known(pair["p_holm"]):
        return ""
    return "" if pair["distinguishable"] else EQUAL


def _cell(value: object, scale: float, form: str) -> Cell:
    return Cell(number(value, form, scale, unknown=DASH), float(value) * scale if is_known(value) else None)


def _metric(run: Any, name: str) -> Cell:
    column = column_of(name)
    cell = _cell(run[name], column.scale, column.form)
    low, high = (run.get(end) for end in bounds_of(name))
    if cell.text == DASH or not (is_known(low) and is_known(high)):
        return cell
    ends = low * column.scale, high * column.scale
    return replace(cell, interval=interval(low, high, column.form, column.scale), low=ends[0], high=ends[1])


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
