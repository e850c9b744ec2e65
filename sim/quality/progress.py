"""How far a long command is: a bar on a terminal, elsewhere a line a minute on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

EVERY_S = 60.0


class Progress(Protocol):
    """Takes what was done since it was last told."""

    def update(self, n: float = 1) -> object: ...


class Lines:
    """Says a line a minute how much is done and how long the rest will take at the rate so far."""

    def __init__(self, what: str, total: float) -> None:
        self.what, self.total, self.done = what, total, 0.0
        self.started_s = self.said_s = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Count; says something where a minute has passed since it last did."""
        self.done += n
        now_s = time.monotonic()
        if self.done and now_s - self.said_s >= EVERY_S:
            self.said_s = now_s
            print(self.line(now_s - self.started_s), file=sys.stderr, flush=True)

    def line(self, spent_s: float) -> str:
        """What is said after so many seconds."""
        left_s = spent_s * max(0.0, self.total / self.done - 1.0)
        return f"{self.what}: {self.done / self.total:.0%} done in {spent_s / 60:.0f} min, {left_s / 60:.1f} min to go"


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Something to be told what was done, of ``total`` in all."""
    if not sys.stderr.isatty():
        yield Lines(what, total)
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, delay=2, leave=False) as bar:
        yield bar
