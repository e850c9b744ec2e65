"""A timeline as Chrome trace events (https://ui.perfetto.dev opens them): a track per GPU, die, link."""

from __future__ import annotations

import re
from typing import Any

from sim.results.outputs import SIMULATED

Span = tuple[str, str, int, int]
"""(track, what, begin, end), in nanoseconds."""


def chrome_trace(logs: dict[str, list[Span]]) -> dict[str, Any]:
    """The spans of each process as complete events (`ph: X`) in microseconds, and the names of processes and tracks."""
    events: list[dict[str, Any]] = []
    for process, (scheme, spans) in enumerate(logs.items()):
        events.append({"ph": "M", "name": "process_name", "pid": process, "args": {"name": f"{scheme} ({SIMULATED})"}})
        tracks = {name: i for i, name in enumerate(sorted({span[0] for span in spans}, key=_natural))}
        for name, track in tracks.items():
            events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": track, "args": {"name": name}})
        for name, what, begin_ns, end_ns in spans:
            times = {"ts": begin_ns / 1e3, "dur": (end_ns - begin_ns) / 1e3}
            events.append({"ph": "X", "name": what, "pid": process, "tid": tracks[name], **times})
    return {"displayTimeUnit": "ns", "otherData": {"label": SIMULATED}, "traceEvents": events}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `worker 10` after `worker 9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
