"""Compare the policies of a sweep, pair by pair on the same requests.

usage: python -m sim compare FOLDER [metric=NAME] [baseline=POLICY] [machines=24] [out=FILE]

Runs of equal trace, batch size, machine and capacity are compared, on the requests that both replayed, and on the same
runtime or (runtime=own) each on its own, as every table says; what is in no pair is named. Whole requests are drawn
again, the same ones for both runs: lockstep batches, or all requests of a data set or conversation where the trace
names six or more. Intervals are 95 %, by the bootstrap-t. p is below .05 where the interval leaves out 0, and corrected
by Holm for all pairs that are printed; "A wins" is the share of draws in which A is better. A quantile has an interval
from 5 / (1 - q) requests on: p50 10, p90 50, p99 500. What is not distinguishable (p of Holm above 0.05) is marked.

Files of hardware and runtime state how uncertain their figures are. Every run is replayed on plausible machines, with
figures drawn within these errors, the same for all policies: intervals count in what that does, and a sentence says on
how many of them A is faster, and which figure would turn the order within three standard errors. A second `compare`
finds these replays in the folder of each run.

  metric=NAME      of metrics.json: tpot_s.mean (the default; of batches itl_s.mean, the time of a decode step),
                   tpot_s.p90, decode.hit_rate, bytes_per_token, lost_gate_mass, ...
  baseline=POLICY  compare with this policy only, instead of all pairs: the plain policy, a series as tables call it,
                   or the file of a rule of your own; where pairs are more than 1,000 every run is compared with the
                   best of its conditions only, and a note says so
  machines=N       plausible machines; 0: none, intervals are over requests alone. Folders of more than 24 runs: none
                   unless N is given, but a first-order estimate, as where a run's trace is not at hand
  out=FILE         write the table, as Parquet or, by its ending, as CSV; out=- writes CSV to the standard output

Examples
  python -m sim run -m policy=lru,importance,belady sweep.name=mine
  python -m sim compare outputs/sweep/mine baseline=lru
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sim.command_words import machines_of, read_words
from sim.formatting import DEPTHS, form_of, is_known, number, of_layers, percent, with_interval
from sim.metrics.registry import Quantity, decode_time, quantity_of
from sim.terminal import next_commands
from traces.errors import UserError
from traces.text import spreadsheet_cell

if TYPE_CHECKING:
    import pandas as pd


def main(argv: list[str]) -> int:
    """Compare and print -> 0. Raises: UserError for unknown words, and where there is nothing to compare."""
    words = {"metric": "NAME", "baseline": "POLICY", "machines": "N", "out": "FILE"}
    word, pairs = read_words("compare", argv, words)
    folder, options = Path(word), dict(pairs)
    if "out" in options:
        from traces.whole_file import check_place

        check_place(Path(options["out"]))
    machines = machines_of(options)
    from sim.results.comparisons import compared
    from sim.results.table import collect
    from sim.run.plausible import replay_on_plausible_machines, sentences

    table = collect(folder, with_intervals=False)  # refuses what cannot be read before anything is replayed
    unplayed = replay_on_plausible_machines(folder, machines)
    metric = options.get("metric") or decode_time(table["batch_size"])
    found = compared(table, metric, options.get("baseline"), machines != 0)
    if found.pairs.empty:
        notes = "".join(f"; {note}" for note in found.notes)
        raise UserError(f"{folder}: no two runs differ in their policy only, so nothing can be compared{notes}")
    said = [*found.notes, *unplayed]
    if machines == 0:
        said.append("machines=0: intervals are over requests alone")
    told = list(sentences(found.pairs))
    if "out" not in options:
        show(table, found.pairs, told, said)
        print(next_commands(["report", folder]))
        return 0
    from traces.whole_file import printing_beside

    out = Path(options["out"])
    with printing_beside(out):
        show(table, found.pairs, told, said)
        write(out, found.pairs)
        print(f"wrote {out}")
    return 0


def show(table: pd.DataFrame, pairs: pd.DataFrame, told: Iterable[str], notes: Iterable[str]) -> None:
    """Print the pairs, what is to be said of them, and what is fragile about the runs."""
    from sim.results.differences import difference_lines

    print(text(pairs))
    for line in difference_lines(table, pairs):
        print(line)
    for sentence in told:
        print(sentence)
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
    """The pairs as aligned lines, those of one capacity and machine together, in the unit of their metric."""
    quantity = quantity_of(str(pairs["metric"].iloc[0]))
    title = f"{quantity.name}: {title_of(quantity)}"
    from sim.results.table import rate_heading

    lines = [f"{title}, {pairs['blocks'].max()} blocks of requests, SIMULATED; A against B of every pair"]
    unit = unit_of(quantity)
    width = max(len(name) for name in {*pairs["series"], *pairs["against"]})
    for _, rows in pairs.groupby("conditions", sort=False):
        first = rows.iloc[0]
        layers = of_layers(*first[list(DEPTHS)]) if quantity.is_time else ""
        where = [f"capacity {first['asked_capacity']}", str(first["hardware"]), on_runtime(first)]
        lines += ["", ", ".join(filter(None, [*where, f"batch size {first['batch_size']}", layers]))]
        rate, timed = rate_heading(rows), quantity.name == decode_time((int(first["batch_size"]),))
        rates = (f"A {rate}", f"B {rate}") if timed else ()
        heads = (
            f"A{unit}", f"B{unit}", *rates, f"A - B{difference_unit(quantity)} [95 %]", "A / B - 1 [95 %]", "p Holm",
            "A wins",
        )  # fmt: skip
        names = [("A", "B"), *zip(rows["series"], rows["against"], strict=True)]
        cells = [heads, *(_cells(row, quantity) for _, row in rows.iterrows())]
        marks = ["", *("" if known else "not distinguishable" for known in rows["distinguishable"])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for (one, other), figures, mark in zip(names, cells, marks, strict=True):
            shown = "  ".join(f"{cell:>{wide}}" for cell, wide in zip(figures, widths, strict=True))
            lines.append(f"  {one:<{width}}  {other:<{width}}  {shown}  {mark}".rstrip())
    return "\n".join(lines)


def title_of(quantity: Quantity) -> str:
    """What is compared: the metric's words, and which steps it counts."""
    steps = {(0, 1): "all steps", (0,): "prefill steps", (1,): "decode steps"}[quantity.phases]
    return quantity.metric.title if quantity.request_time else f"{quantity.metric.title}, {steps}"


def unit_of(quantity: Quantity) -> str:
    """The unit of a heading, in front of it a blank; empty for plain numbers."""
    return f" {quantity.metric.unit.word}".rstrip()


def difference_unit(quantity: Quantity) -> str:
    """The unit of a difference: of percent, points."""
    return " points" if quantity.metric.unit.word == "%" else unit_of(quantity)


def on_runtime(row: pd.Series) -> str:
    """The comparison that a pair belongs to, by name."""
    return str(row["comparison"]) if row["runtime"] == "own" else f"{row['runtime']} ({row['comparison']})"


def _rates(row: pd.Series, quantity: Quantity) -> tuple[str, ...]:
    """Tokens that all requests of a batch get per second, of both; nothing where the metric is no time of decoding."""
    batch = int(row["batch_size"])
    if quantity.name != decode_time((batch,)):
        return ()
    return tuple(number(batch / time if time > 0 else None, ".2f") for time in (row["value"], row["against_value"]))


def _cells(row: pd.Series, quantity: Quantity) -> tuple[str, ...]:
    """The figures of one pair."""
    scale, form = quantity.metric.unit.scale, quantity.metric.form or quantity.metric.unit.form
    signed, gap = form.replace(".", "+.", 1), [row[f"difference{end}"] for end in ("", "_low", "_high")]
    less = [row[name] - 1 for name in ("ratio", "ratio_low", "ratio_high")]
    return (
        number(row["value"], form, scale),
        number(row["against_value"], form, scale),
        *_rates(row, quantity),
        with_interval(number(gap[0], signed, scale), gap[1], gap[2], signed, scale)
        + ("" if is_known(gap[1]) else " [no interval]"),
        with_interval(percent(less[0], form_of(less), " %"), less[1], less[2], form_of(less), 100.0),
        number(row["p_holm"], ".2g"),
        percent(row["wins"]),
    )  # fmt: skip
