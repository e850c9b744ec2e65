"""Times runs in turn, so that other load on the machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def processor_s(run: Callable[[], object]) -> float:
    """Seconds of processor time that a run takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def in_turn(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds that every run returned, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    return seconds
