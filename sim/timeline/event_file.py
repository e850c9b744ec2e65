"""Writes what GPU, link and CPU did when as a Chrome trace-event file, for https://ui.perfetto.dev.

Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Times are
SIMULATED, in microseconds with three decimals, so that every nanosecond is exact.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sim.assembly.replay import Replay
from sim.engine.interface import BlockResult
from sim.timeline.slices import (
    BACK,
    LINK,
    STAGING,
    STORAGE,
    TRACKS,
    Arrow,
    Event,
    Mark,
    Slice,
    Slicer,
    step_slices,
    until_step,
)
from traces.whole_file import UnfinishedFile

NAME = "timeline.json.gz"
PROCESS = 1
GZIP_LEVEL = 1  # measured: six times the rate of the default at one and a half times its size


def microseconds(time_ns: int) -> str:
    return f"{time_ns // 1000}.{time_ns % 1000:03d}"


def as_json(event: Event) -> str:
    """One trace event."""
    if isinstance(event, Slice):
        return (
            f'{{"ph":"X","pid":{PROCESS},"tid":{event.track},"ts":{microseconds(event.begin_ns)},'
            f'"dur":{microseconds(event.end_ns - event.begin_ns)},"name":"{event.name}","cat":"{event.category}",'
            f'"args":{{{event.args}}}}}'
        )
    if isinstance(event, Mark):
        return (
            f'{{"ph":"i","s":"t","pid":{PROCESS},"tid":{event.track},"ts":{microseconds(event.at_ns)},'
            f'"name":"{event.name}","cat":"{event.category}","args":{{{event.args}}}}}'
        )
    if isinstance(event, Arrow):
        end = "" if event.starts else ',"bp":"e"'
        return (
            f'{{"ph":"{"s" if event.starts else "f"}","pid":{PROCESS},"tid":{event.track},'
            f'"ts":{microseconds(event.at_ns)},"name":"copied for","cat":"copy","id":{event.number}{end}}}'
        )
    return (
        f'{{"ph":"C","pid":{PROCESS},"ts":{microseconds(event.at_ns)},"name":"{event.name}","args":{{{event.args}}}}}'
    )


def head(replay: Replay) -> Iterator[str]:
    """Names and order of the tracks."""
    shown = {track: name for track, name in TRACKS.items() if track != STORAGE or replay.spec.host is not None}
    tracks = shown | {STAGING + i: f"staging slot {i + 1}" for i in range(replay.runtime.staging_slots)}
    title = f"SIMULATED: {replay.policy.name} on {replay.hardware.name}"
    yield _named("process_name", 0, name=title)
    for track, name in tracks.items():
        yield _named("thread_name", track, name=name)
        yield _named("thread_sort_index", track, sort_index=track)


def _named(what: str, track: int, **args: Any) -> str:
    return json.dumps({"ph": "M", "pid": PROCESS, "tid": track, "name": what, "args": args})


class TimelineFile:
    """A timeline that grows block by block and appears under its name when it is complete.

    Give it every block; after the first ``steps`` steps (None: never) it tells the engine to keep no more slices.
    """

    def __init__(self, path: Path, replay: Replay) -> None:
        self.path, self.unfinished, self.replay = path, UnfinishedFile(path), replay
        self.limit = replay.run.timeline_steps
        self.steps, self.events, self.now_ns = 0, 0, 0
        before_ns = [int(spent_ns) for spent_ns in replay.durations.before_lookup_ns]
        self.slicer = Slicer(replay.trace.num_experts, replay.runtime.staging_slots, before_ns)
        self.held: dict[int, Slice] = {}
        self.file = gzip.GzipFile("", "wb", GZIP_LEVEL, self.unfinished.open(), mtime=0)
        about = {"label": "SIMULATED", "policy": replay.policy.name, "estimated": replay.notes.estimated}
        self._write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},"traceEvents":[\n')
        self._write(",\n".join(head(replay)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def add(self, result: BlockResult) -> None:
        """Take in a block that was just replayed, with what the engine logged of it."""
        count = len(result.block) if self.limit is None else min(len(result.block), self.limit - self.steps)
        if count <= 0:
            return
        log = until_step(self.replay.engine.take_log(), count, self.replay.trace.num_layers)
        self._put(step_slices(result, count, self.steps, self.now_ns))
        self._put(self._in_order(self.slicer.events(log)))
        self.steps += count
        self.now_ns += int(result.latency_ns[:count].sum() + result.block.pause_ns[:count].sum())
        if self.steps == self.limit:
            self.replay.engine.stop_log()

    def _in_order(self, events: Iterator[Event]) -> Iterator[Event]:
        """Holds the last copy of each direction back: it is cut short where the cache was reset while it went on."""
        for event in events:
            if isinstance(event, Slice) and event.track in (LINK, BACK):
                before = self.held.get(event.track)
                self.held[event.track] = event
                if before is not None and before.begin_ns <= event.begin_ns:  # else a reset came before it began
                    yield cut_short(before, event.begin_ns)
            else:
                yield event

    def _put(self, events: Iterator[Event] | list[Event]) -> None:
        lines = [as_json(event) for event in events]
        self.events += len(lines)
        self._write("".join(f",\n{line}" for line in lines))

    def _write(self, text: str) -> None:
        self.file.write(text.encode())

    def close(self) -> None:
        """Write the remaining slices and give the file its name."""
        self._put(list(self.held.values()))
        self._write("\n]}\n")
        self.file.close()
        self.unfinished.finish()

    def abandon(self) -> None:
        """Remove what was written and has not got its name."""
        with suppress(OSError):  # a full disk fails again
            self.file.close()
        self.unfinished.discard()


def cut_short(copy: Slice, next_begin_ns: int) -> Slice:
    """A copy, ended where the next one begins if it was void by then."""
    if copy.end_ns <= next_begin_ns:
        return copy
    args = ",".join(filter(None, (copy.args, '"void":1')))
    return copy._replace(end_ns=max(copy.begin_ns, next_begin_ns), args=args)
