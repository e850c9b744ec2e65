"""Measures of decode steps that metrics.json does not hold, with intervals: copies per step, how prefetches ended."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from policies.state import DECODE
from sim.metrics.registry import MEASURES
from sim.results.parquet_files import read_numbers
from sim.results.run_files import load_run
from sim.results.table import interval_columns
from sim.statistics.run_sample import Run, value_of


def add_measures(table: pd.DataFrame, of_machines: bool = True) -> pd.DataFrame:
    """The table with `NAME`, `NAME.low` and `NAME.high` for each measure: NaN where a run does not tell.

    `of_machines`: whether intervals hold the uncertainty of the machine, too.
    """
    runs = [decode_steps(Path(str(folder))) for folder in table["folder"]]
    rows = [measures_of(run if of_machines else run.of_the_stated_machine()) for run in runs]
    return table.join(pd.DataFrame(rows, table.index))


def measures_of(run: Run) -> dict[str, float]:
    """The measures of one run with 95 % intervals over its lockstep batches."""
    return {name: value_of(run, name) for name in MEASURES} | interval_columns(run, tuple(MEASURES))


def decode_steps(folder: Path) -> Run:
    """The decode steps of a run, with their number as `steps`, of the lockstep batches that have some."""
    run = load_run(folder)
    decode = run.blocks[run.blocks["phase"] == DECODE]
    if "steps" not in decode:
        steps = read_numbers(folder / "steps.parquet", ("group", "phase"))
        counts = steps[steps["phase"] == DECODE].groupby("group").size()
        decode = decode.assign(steps=decode["group"].map(counts))
    return replace(run, blocks=decode[decode["steps"] > 0])
