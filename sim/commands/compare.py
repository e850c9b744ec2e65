"""Compare the policies of a sweep, pair by pair on the same requests.

usage: python -m sim compare FOLDER [metric=tpot_s.mean] [baseline=POLICY] [out=pairs.parquet]

Runs of equal trace, requests, batch size, machine and capacity are compared. Whole requests (lockstep batches) are
drawn again, the same ones for both runs: the intervals are 95 %. p is Student's, on the differences of the requests,
corrected by Holm for all pairs that are printed; "A wins" is the share of draws in which A is better. Where the
hardware file states how uncertain its figures are, times count that in. What is not distinguishable (p of Holm above
0.05) is marked.

  metric=NAME      of metrics.json: tpot_s.mean, tpot_s.p90, decode.hit_rate, bytes_per_token, lost_gate_mass, ...
  baseline=POLICY  compare with this policy only, instead of all pairs
  out=FILE         write the table, as Parquet or, by its ending, as CSV

Examples
  python -m sim run -m policy=lru,importance,belady sweep.name=mine
  python -m sim compare outputs/sweep/mine baseline=lru
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.command_words import read_words
from sim.formatting import number, percent
from traces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def main(argv: list[str]) -> int:
    """Compare and print -> 0. Raises: UserError for unknown words, and where there is nothing to compare."""
    word, pairs = read_words("compare", argv, {"metric": "NAME", "baseline": "POLICY", "out": "FILE"})
    folder, options = Path(word), dict(pairs)
    from sim.results.table import collect, comparisons

    table = collect(folder)
    compared = comparisons(table, options.get("metric", "tpot_s.mean"), options.get("baseline"))
    if compared.empty:
        raise UserError(f"{folder}: no two runs differ in their policy only, so nothing can be compared")
    print(text(compared))
    for warning in sorted({warning for row in table["warnings"] for warning in row if warning.startswith("fragile")}):
        print(warning)
    if "out" in options:
        out = Path(options["out"])
        if out.suffix == ".csv":
            compared.to_csv(out, index=False)
        else:
            compared.to_parquet(out, index=False)
        print(f"wrote {out}")
    return 0


def text(pairs: pd.DataFrame) -> str:
    """The pairs as aligned lines, those of one capacity and machine together."""
    lines = [f"{pairs['metric'].iloc[0]}, {pairs['blocks'].max()} blocks of requests, SIMULATED; A - B of every pair"]
    width = max(len(name) for name in {*pairs["series"], *pairs["against"]})
    for _, rows in pairs.groupby("conditions", sort=False):
        first = rows.iloc[0]
        lines += ["", f"capacity {first['asked_capacity']}, {first['hardware']}, batch size {first['batch_size']}"]
        figures = f"{'A':>10} {'B':>10} {'A - B':>10}  {'95 %':^23} {'p Holm':>8} {'A wins':>7}"
        lines.append(f"  {'A':<{width}}  {'B':<{width}}  {figures}")
        lines += [f"  {_line(row, width)}" for _, row in rows.iterrows()]
    return "\n".join(lines)


def _line(row: pd.Series, width: int) -> str:
    """One pair."""
    interval = f"{number(row['difference_low'])} to {number(row['difference_high'])}"
    p, wins = number(row["p_holm"], ".2g"), percent(row["wins"])
    mark = "" if row["distinguishable"] else "  not distinguishable"
    return (
        f"{row['series']:<{width}}  {row['against']:<{width}}  {number(row['value']):>10} "
        f"{number(row['against_value']):>10} {number(row['difference']):>10}  {interval:^23} {p:>8} {wins:>7}{mark}"
    )
