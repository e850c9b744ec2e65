"""Put all runs below a folder into one Parquet table.

usage: python -m sim gather FOLDER

Writes FOLDER/results.parquet: one row per run with its metrics, their 95 % intervals and what it ran; beside it
results_requests.parquet, one row per request of every run, and results_blocks.parquet, one per batch and phase.
A sweep does this at its end; use it while one is running, or after it was killed.

  pandas: pd.read_parquet("FOLDER/results.parquet")
  DuckDB: SELECT policy, capacity, "tpot_s.mean" FROM 'FOLDER/results.parquet'
  Polars: pl.read_parquet("FOLDER/results.parquet")
"""

from __future__ import annotations

from pathlib import Path

from sim.command_words import read_words
from sim.terminal import next_commands
from traces.errors import UserError


def main(argv: list[str]) -> int:
    """Gather -> 0. Raises: UserError for a folder without finished runs."""
    from sim.results.gather import gather

    folder = Path(read_words("gather", argv, {})[0])
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the output folder of a sweep")
    count = gather(folder)
    if not count:
        raise UserError(f"{folder} holds no results: `python -m sim run` writes metrics.json into its output folder")
    print(f"{count} runs in {folder / 'results.parquet'}")
    print(next_commands(["report", folder], ["compare", folder]))
    return 0
