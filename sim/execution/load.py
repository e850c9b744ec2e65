"""Load of the machine during a measurement: other processes, stolen time, waiting for a core.

Read from /proc; None where the system does not report it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
WORK_COLUMNS = (0, 1, 2, 5, 6)
"""Columns of /proc/stat that are work: user, nice, system, irq, softirq."""
STEAL_COLUMN = 7


class RunQueue:
    """How long threads of this process have waited for a core although they could have run, in ns.

    ``threads``: their ids as the system numbers them (``threading.get_native_id``).
    """

    def __init__(self, *threads: int) -> None:
        self.files: list[int] = []
        for thread in threads:
            try:
                self.files.append(os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY))
            except OSError:
                self.files.append(-1)

    def read(self) -> list[int | None]:
        """One number per thread, since the thread began."""
        return [waited_ns(file) for file in self.files]

    def since(self, before: list[int | None]) -> list[int | None]:
        """How long each thread has waited since ``read`` gave ``before``."""
        pairs = zip(self.read(), before, strict=True)
        return [None if now is None or then is None else now - then for now, then in pairs]

    def close(self) -> None:
        for file in self.files:
            if file >= 0:
                os.close(file)
        self.files = []


def waited_ns(file: int) -> int | None:
    """The second number of an open schedstat file."""
    try:
        return int(os.pread(file, 100, 0).split()[1]) if file >= 0 else None
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment, in seconds; ``machine_s`` and ``steal_s`` summed over all cores."""

    wall_s: float
    own_s: float
    machine_s: float | None
    steal_s: float | None

    @classmethod
    def now(cls) -> Snapshot:
        wall_s, own_s = time.perf_counter(), time.process_time()
        try:
            ticks = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:]]
            hertz = os.sysconf("SC_CLK_TCK")
            return cls(wall_s, own_s, sum(ticks[i] for i in WORK_COLUMNS) / hertz, ticks[STEAL_COLUMN] / hertz)
        except (OSError, IndexError, ValueError):
            return cls(wall_s, own_s, None, None)


@dataclass(frozen=True, slots=True)
class Load:
    """Between two moments: ``foreign_share`` of all cores that other processes used, ``steal_share`` that the
    hypervisor took away."""

    foreign_share: float | None
    steal_share: float | None

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> Load:
        wall_s, own_s = after.wall_s - before.wall_s, after.own_s - before.own_s
        cores_s = wall_s * (os.cpu_count() or 1)
        if None in (before.machine_s, after.machine_s, before.steal_s, after.steal_s) or cores_s <= 0:
            return cls(None, None)
        machine_s = (after.machine_s or 0.0) - (before.machine_s or 0.0)
        steal_s = (after.steal_s or 0.0) - (before.steal_s or 0.0)
        return cls(max(0.0, machine_s - own_s) / cores_s, steal_s / cores_s)

    @property
    def disturbance(self) -> float | None:
        """Share of all cores that this process could not use."""
        if self.foreign_share is None or self.steal_share is None:
            return None
        return self.foreign_share + self.steal_share
