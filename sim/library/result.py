"""What a replay gave, read from its folder when it is asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sim.formatting import DEPTHS, of_layers
from sim.results.run_files import load_run
from sim.statistics.pairs import compare
from traces.errors import UserError
from traces.text import printable
from traces.whole_file import write_whole


@dataclass(frozen=True)
class Result:
    """A finished replay: its metrics, its tables, and the folder that `python -m sim run` would have written.

    A copy, in another process too (pickle, joblib), has a folder of its own unless the replay had a name for it.
    """

    folder: Path
    """metrics.json, steps.parquet, requests.parquet, blocks.parquet, provenance.json."""
    summary: str
    """The table that the command prints."""
    kept: Any = None
    """Keeps a temporary folder until the result is gone."""
    exchanged: str = ""
    """Parts that were exchanged in the policy, as ``eviction=fifo``."""

    @cached_property
    def metrics(self) -> dict[str, float | int | str | None]:
        """Name -> value; docs/metrics.md says what each is. Times are SIMULATED."""
        found: dict[str, float | int | str | None] = json.loads((self.folder / "metrics.json").read_text())
        return found

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the result comes from: configuration, hashes, versions, what in it is ESTIMATED."""
        found: dict[str, Any] = json.loads((self.folder / "provenance.json").read_text())
        return found

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step: request, phase, times in ns by part, counts."""
        return pd.read_parquet(self.folder / "steps.parquet")

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: its times in s, its number in the whole trace."""
        return pd.read_parquet(self.folder / "requests.parquet")

    @property
    def name(self) -> str:
        """The policy's name, and which parts were exchanged in it."""
        return f"{self.provenance['policy']} {self.exchanged}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.kept is None:
            return Result, (self.folder, self.summary, None, self.exchanged)
        files = {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}
        return _with_files, (files, self.summary, self.exchanged)

    def compare(self, other: Result, metric: str = "tpot_s.mean") -> pd.DataFrame:
        """This result against another on the same requests: difference and ratio with 95 % intervals, one row.

        Columns: see `sim.statistics.pairs.compare`. Raises: UserError where the requests differ, or for a metric that
        is not known.
        """
        if not isinstance(other, Result):
            raise UserError(f"compare: {printable(repr(other))} is no result: must be what sim.replay gave")
        against = other.name if other.name != self.name else f"{other.name} (other)"
        runs = [load_run(self.folder, self.name), load_run(other.folder, against)]
        return compare(runs, metric, against)

    def plot(self, figure: str, *others: Result, **options: Any) -> Figure:
        """A figure of this result, and of others beside it, by its name in `python -m sim plot --help`.

        Raises: UserError for an unknown figure, or where the runs lack what it shows.
        """
        from sim.figures.measures import add_measures
        from sim.figures.registry import check_name, figures_of
        from sim.figures.run_settings import add_settings
        from sim.results.table import table_of

        check_name(figure)
        for other in others:
            if not isinstance(other, Result):
                raise UserError(f"plot: {printable(repr(other))} is no result: must be what sim.replay gave")
        table = add_measures(add_settings(table_of(self.folder, [self.folder, *(one.folder for one in others)])))
        ((_, drawn),) = figures_of(self.folder, [figure], 1, table, **options)
        return drawn

    def __str__(self) -> str:
        return self.summary

    def __repr__(self) -> str:
        hits, tpot = self.metrics["decode.hit_rate"], self.metrics.get("tpot_s.mean")
        rate = "" if not isinstance(hits, float) else f", decode hit rate {hits:.1%}"
        layers = of_layers(*(self.provenance.get(name) for name in DEPTHS))
        time = "" if not isinstance(tpot, float) else f", TPOT {1e3 * tpot:.3f} ms {layers} SIMULATED"
        return f"<Result {self.name}{rate}{time}>"


def new_folder() -> tuple[Any, Path]:
    """(what keeps it, a temporary folder)."""
    kept = tempfile.TemporaryDirectory(prefix="moe-sim-")
    return kept, Path(kept.name)


def _with_files(files: Mapping[str, bytes], summary: str, exchanged: str) -> Result:
    """A result whose files lie in a new temporary folder."""
    kept, folder = new_folder()
    for name, content in files.items():
        write_whole(folder / name, content)
    return Result(folder, summary, kept, exchanged)
