"""What happens around a sweep, in the process that started it: results gathered, failures counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sim.results.json_files import read_json
from sim.terminal import next_commands
from traces.whole_file import make_folder, unfinished_name

FAILED = "failed"


@dataclass(slots=True)
class Outcome:
    """How many runs of a sweep failed, and how many of these not for bad input."""

    failed: int = 0
    unexpected: int = 0

    @property
    def exit_status(self) -> int:
        """0 when nothing failed, 2 when all that failed was bad input, else 1."""
        if not self.failed:
            return 0
        return 1 if self.unexpected else 2


_watched: ContextVar[Outcome | None] = ContextVar("watched", default=None)


@contextmanager
def watch_sweep() -> Iterator[Outcome]:
    """The outcome of the sweep that ends inside; Hydra makes the callback itself, so it cannot be passed there."""
    outcome = Outcome()
    token = _watched.set(outcome)
    try:
        yield outcome
    finally:
        _watched.reset(token)


class SweepEnd(Callback):
    """Hydra calls it before the first and after the last job of a sweep."""

    def __init__(self) -> None:
        self.started_ns = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the time."""
        self.started_ns = now_ns(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather the results, and say what failed."""
        finish(Path(config.hydra.sweep.dir), self.started_ns)


def now_ns(folder: Path) -> int:
    """The time as the file system of the results tells it: jobs may run on other machines."""
    make_folder(folder)
    mark = folder / unfinished_name("started")
    mark.touch(exist_ok=False)
    found = mark.stat().st_mtime_ns
    mark.unlink()
    return found


def finish(folder: Path, started_ns: int) -> None:
    """Gather what a folder holds, and say what failed since a time of the file system, to ``watch_sweep`` too."""
    from sim.results.gather import SYSTEMS, gather
    from sim.results.run_files import finished_runs, is_system
    from sim.results.table import RESULTS

    failures = failures_since(folder, started_ns)
    outcome = _watched.get()
    if outcome is not None:
        outcome.failed, outcome.unexpected = len(failures), sum(not failure["bad_input"] for failure in failures)
    for failure in failures:
        print(f"failed: {' '.join(failure['overrides'])}: {failure['error']}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} runs failed, see {folder / FAILED}; the rest is kept", file=sys.stderr)
    count = gather(folder)
    if not count:
        print(f"no results in {folder}")
        return
    runs = finished_runs(folder)
    kept = sum((run / "metrics.json").stat().st_mtime_ns < started_ns for run in runs)
    before = f", {kept} of them kept from before" if kept else ""
    only_systems = all(map(is_system, runs))
    word = "run" if count == 1 else "runs"
    print(f"{count} {word} in {folder / (SYSTEMS if only_systems else RESULTS)}{before}")
    print(next_commands(["report", folder], *([] if only_systems else [["compare", folder]])))


def failures_since(folder: Path, started_ns: int) -> list[dict[str, Any]]:
    """Records of the runs that failed since a time of the file system."""
    paths = sorted((folder / FAILED).glob("*.json"))
    recent = [path for path in paths if path.stat().st_mtime_ns >= started_ns]
    return [read_json(path) for path in recent]
