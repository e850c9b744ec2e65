"""A timeline as Chrome trace events (https://ui.perfetto.dev opens them): one track per node, GPU and link."""

from __future__ import annotations

import re
from typing import Any


class Timeline:
    """Collects what each track did, in nanoseconds, and gives it as the JSON that trace viewers read."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, int, int]] = []
        """(track, what, begin, duration)"""

    def add(self, track: str, what: str, begin_ns: int, duration_ns: int) -> None:
        """Note one span."""
        self.spans.append((track, what, begin_ns, duration_ns))

    def chrome_events(self) -> dict[str, Any]:
        """Complete events (`ph: X`) in microseconds, and the name of every track."""
        tracks = {name: number for number, name in enumerate(sorted({span[0] for span in self.spans}, key=_natural))}
        names = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": name}}
            for name, number in tracks.items()
        ]
        spans = [
            {"name": what, "ph": "X", "pid": 0, "tid": tracks[track], "ts": begin / 1e3, "dur": duration / 1e3}
            for track, what, begin, duration in self.spans
        ]
        return {"displayTimeUnit": "ms", "otherData": {"label": "SIMULATED"}, "traceEvents": names + spans}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `worker 10` after `worker 9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
