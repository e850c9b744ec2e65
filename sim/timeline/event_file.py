"""Writes what GPU, link and CPU did when as a Chrome trace-event file, for https://ui.perfetto.dev.

Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Times are
SIMULATED, in microseconds with three decimals, so that every nanosecond is exact.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sim.assembly.replay import Replay
from sim.engine.clocks.timeline_log import LOG_HANDOVER, LOG_LAYER
from sim.engine.interface import BlockResult
from sim.timeline.slices import (
    BACK,
    LINK,
    PEER_TRACKS,
    STAGING,
    STEPS,
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

NOTHING = np.empty((0, 5), np.int64)
NAME = "timeline.json.gz"
FIRST = 1
"""Process of the first GPU, which the steps are shown with; every other has the next."""
GZIP_LEVEL = 1  # measured: six times the rate of the default at one and a half times its size


def microseconds(time_ns: int) -> str:
    return f"{time_ns // 1000}.{time_ns % 1000:03d}"


def as_json(event: Event, process: int) -> str:
    """One trace event."""
    if isinstance(event, Slice):
        return (
            f'{{"ph":"X","pid":{process},"tid":{event.track},"ts":{microseconds(event.begin_ns)},'
            f'"dur":{microseconds(event.end_ns - event.begin_ns)},"name":"{event.name}","cat":"{event.category}",'
            f'"args":{{{event.args}}}}}'
        )
    if isinstance(event, Mark):
        return (
            f'{{"ph":"i","s":"t","pid":{process},"tid":{event.track},"ts":{microseconds(event.at_ns)},'
            f'"name":"{event.name}","cat":"{event.category}","args":{{{event.args}}}}}'
        )
    if isinstance(event, Arrow):
        end = "" if event.starts else ',"bp":"e"'
        return (
            f'{{"ph":"{"s" if event.starts else "f"}","pid":{process},"tid":{event.track},'
            f'"ts":{microseconds(event.at_ns)},"name":"copied for","cat":"copy","id":{event.number}{end}}}'
        )
    return (
        f'{{"ph":"C","pid":{process},"ts":{microseconds(event.at_ns)},"name":"{event.name}","args":{{{event.args}}}}}'
    )


def head(replay: Replay) -> Iterator[str]:
    """Names and order of the tracks of every GPU."""
    title, first = f"SIMULATED: {replay.policy.name} on {replay.hardware.name}", 0
    for process, turn in enumerate(replay.turns, FIRST):
        stop = first + turn.trace.num_layers
        of = f", GPU {process} with layers {first} to {stop - 1}" if len(replay.turns) > 1 else ""
        yield _named(process, "process_name", 0, name=title + of)
        for track, name in tracks_of(turn, process == FIRST).items():
            yield _named(process, "thread_name", track, name=name)
            yield _named(process, "thread_sort_index", track, sort_index=track)
        first = stop


def tracks_of(turn: Replay, with_steps: bool) -> dict[int, str]:
    """The names of one GPU's tracks."""
    host = turn.spec.host
    peer = {} if host is None or host.reading.peer is None else PEER_TRACKS
    absent = {STEPS: not with_steps, STORAGE: host is None}
    shown = {track: peer.get(track, name) for track, name in TRACKS.items() if not absent.get(track)}
    return shown | {STAGING + i: f"staging slot {i + 1}" for i in range(turn.runtime.staging_slots)}


def _named(process: int, what: str, track: int, **args: Any) -> str:
    return json.dumps({"ph": "M", "pid": process, "tid": track, "name": what, "args": args})


@dataclass(slots=True)
class Tracks:
    """What one GPU, its link and the CPU for it did."""

    turn: Replay
    slicer: Slicer
    held: dict[int, Slice] = field(default_factory=dict)

    def events(self, steps: int, between: NDArray[np.int64]) -> Iterator[Event]:
        """What the engine logged of the first ``steps`` steps since the last call.

        ``between``: rows of what came ahead of the GPU's first layer: drafts, or activations that it took over.
        """
        log = until_step(self.turn.engine.take_log(), steps, self.turn.trace.num_layers)
        if between.size:
            begins = np.flatnonzero((log[:, 0] == LOG_LAYER) & (log[:, 1] == 0))
            after = np.searchsorted(log[begins, 2], between[:, 3])
            log = np.insert(log, begins[after[after < begins.size]], between[after < begins.size], axis=0)
        return self._in_order(self.slicer.events(log))

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


def tracks_of_all(replay: Replay) -> list[Tracks]:
    """Of every GPU."""
    found, first, numbers = [], 0, itertools.count(1)
    for turn in replay.turns:
        before_ns = [int(spent_ns) for spent_ns in turn.durations.before_lookup_ns]
        last_tier = "host memory" if turn.setup.devices.stores else "storage"
        slicer = Slicer(turn.trace.num_experts, turn.runtime.staging_slots, before_ns, first, last_tier, numbers)
        found.append(Tracks(turn, slicer))
        first += turn.trace.num_layers
    return found


class TimelineFile:
    """A timeline that grows block by block and appears under its name when it is complete.

    Give it every block; after the first ``steps`` steps (None: never) it tells the engine to keep no more slices.
    """

    def __init__(self, path: Path, replay: Replay) -> None:
        self.path, self.unfinished, self.replay = path, UnfinishedFile(path), replay
        self.limit = replay.run.timeline_steps
        self.steps, self.events, self.now_ns = 0, 0, 0
        self.gpus = tracks_of_all(replay)
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
        self._put(FIRST, step_slices(result, count, self.steps, self.now_ns))
        between = self.replay.engine.take_log() if len(self.gpus) > 1 else NOTHING
        handed = between[:, 0] == LOG_HANDOVER
        whose = np.where(handed, between[:, 1], 0)  # drafts are the first one's
        for number, tracks in enumerate(self.gpus):
            self._put(FIRST + number, tracks.events(count, between[whose == number]))
        self.steps += count
        self.now_ns += int(result.latency_ns[:count].sum() + result.block.pause_ns[:count].sum())
        if self.steps == self.limit:
            self.replay.engine.stop_log()

    def _put(self, process: int, events: Iterable[Event]) -> None:
        lines = [as_json(event, process) for event in events]
        self.events += len(lines)
        self._write("".join(f",\n{line}" for line in lines))

    def _write(self, text: str) -> None:
        self.file.write(text.encode())

    def close(self) -> None:
        """Write the remaining slices and give the file its name."""
        for process, tracks in enumerate(self.gpus, FIRST):
            self._put(process, tracks.held.values())
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
