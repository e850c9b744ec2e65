"""Measures of decode steps that metrics.json does not hold, with intervals: copies per step, how prefetches ended."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from policies.state import DECODE
from sim.results.table import load_run, request_interval


@dataclass(frozen=True, slots=True)
class Measure:
    """Sum of some columns over the sum of another, in decode steps."""

    above: tuple[str, ...]
    below: str


MEASURES = {
    "decode.bytes_per_step": Measure(("copied_bytes",), "steps"),
    "decode.copies_per_step": Measure(("demand_copies", "prefetch_copies"), "steps"),
    **{
        f"decode.{end}_per_token": Measure((f"prefetch_{end}",), "num_tokens")
        for end in ("used", "late", "wasted", "abandoned")
    },
}


def add_measures(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `NAME`, `NAME.low` and `NAME.high` for each measure: NaN where a run does not tell."""
    found = [measured(decode_sums(Path(str(folder)))) for folder in table["folder"]]
    return table.assign(**{key: [row[key] for row in found] for key in (found[0] if found else {})})


def measured(blocks: pd.DataFrame) -> dict[str, float]:
    """The measures of one run with 95 % intervals over its lockstep batches."""
    values: dict[str, float] = {}
    for name, measure in MEASURES.items():
        found = [float("nan")] * 3
        if {*measure.above, measure.below} <= set(blocks) and blocks[measure.below].sum() > 0:
            above = blocks[list(measure.above)].sum(axis=1).to_numpy(dtype=float)
            below = blocks[measure.below].to_numpy(dtype=float)
            found = [above.sum() / below.sum(), *request_interval(above, below)]
        values |= dict(zip((name, f"{name}.low", f"{name}.high"), found, strict=True))
    return values


def decode_sums(run: Path) -> pd.DataFrame:
    """What the decode steps of each lockstep batch add up to, with their number as `steps`; a row per batch."""
    blocks = load_run(run).blocks
    decode = blocks[blocks["phase"] == DECODE].set_index("group")
    if "steps" not in decode:
        steps = pd.read_parquet(run / "steps.parquet", columns=["group", "phase"])
        decode["steps"] = steps[steps["phase"] == DECODE].groupby("group").size()
    return decode[decode["steps"] > 0]
