"""Compare the policies of a sweep, pair by pair on the same requests.

usage: python -m sim compare FOLDER [metric=NAME] [baseline=POLICY] [out=pairs.parquet]

Runs of equal trace, batch size, machine and capacity are compared, on the requests that both replayed; what is in no
pair is named. Whole requests are drawn again, the same ones for both runs: lockstep batches, or all requests of a data
set or conversation where the trace names six or more. Intervals are 95 %, by the bootstrap-t. p is below .05 where the
interval leaves out 0, and corrected by Holm for all pairs that are printed; "A wins" is the share of draws in which A
is better. A quantile has an interval from 5 / (1 - q) requests on: p50 10, p90 50, p99 500. Where the hardware file
states how uncertain its figures are, times count that in. What is not distinguishable (p of Holm above 0.05) is marked.

  metric=NAME      of metrics.json: tpot_s.mean (the default; of batches itl_s.mean, the time of a decode step),
                   tpot_s.p90, decode.hit_rate, bytes_per_token, lost_gate_mass, ...
  baseline=POLICY  compare with this policy only, instead of all pairs
  out=FILE         write the table, as Parquet or, by its ending, as CSV; out=- writes CSV to the standard output

Examples
  python -m sim run -m policy=lru,importance,belady sweep.name=mine
  python -m sim compare outputs/sweep/mine baseline=lru
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sim.command_words import read_words
from sim.formatting import number, percent
from traces.errors import UserError
from traces.text import spreadsheet_cell

if TYPE_CHECKING:
    import pandas as pd


def main(argv: list[str]) -> int:
    """Compare and print -> 0. Raises: UserError for unknown words, and where there is nothing to compare."""
    word, pairs = read_words("compare", argv, {"metric": "NAME", "baseline": "POLICY", "out": "FILE"})
    folder, options = Path(word), dict(pairs)
    if "out" in options:
        from traces.whole_file import check_place

        check_place(Path(options["out"]))
    from sim.metrics.registry import decode_time
    from sim.results.comparisons import compared
    from sim.results.table import collect

    table = collect(folder)
    metric = options.get("metric") or decode_time(table["batch_size"])
    found = compared(table, metric, options.get("baseline"))
    if found.pairs.empty:
        notes = "".join(f"; {note}" for note in found.notes)
        raise UserError(f"{folder}: no two runs differ in their policy only, so nothing can be compared{notes}")
    if "out" not in options:
        show(table, found.pairs, found.notes)
        return 0
    from traces.whole_file import printing_beside

    out = Path(options["out"])
    with printing_beside(out):
        show(table, found.pairs, found.notes)
        write(out, found.pairs)
        print(f"wrote {out}")
    return 0


def show(table: pd.DataFrame, pairs: pd.DataFrame, notes: Iterable[str]) -> None:
    """Print the pairs, what is to be said of them, and what is fragile about the runs."""
    print(text(pairs))
    for note in notes:
        print(f"note: {note}")
    for warning in sorted({warning for row in table["warnings"] for warning in row if warning.startswith("fragile")}):
        print(warning)


def write(out: Path, pairs: pd.DataFrame) -> None:
    """Write the pairs: CSV where the name ends so, or where bytes only pass through; else Parquet."""
    from traces.whole_file import is_stream, write_whole

    as_text = out.suffix == ".csv" or is_stream(out)
    cells = pairs.map(spreadsheet_cell)
    write_whole(out, cells.to_csv(index=False).encode() if as_text else pairs.to_parquet(index=False))


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
    known = row["difference_low"] == row["difference_low"]
    interval = f"{number(row['difference_low'])} to {number(row['difference_high'])}" if known else "no interval"
    p, wins = number(row["p_holm"], ".2g"), percent(row["wins"])
    mark = "" if row["distinguishable"] else "  not distinguishable"
    return (
        f"{row['series']:<{width}}  {row['against']:<{width}}  {number(row['value']):>10} "
        f"{number(row['against_value']):>10} {number(row['difference']):>10}  {interval:^23} {p:>8} {wins:>7}{mark}"
    )
