"""Published telemetry of a phone that reads experts from flash: one row of qwen-lru_*.csv per generated token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.whole_input import read_text

MOST_BYTES = 1 << 25

Vector = NDArray[np.float64]
COLUMNS = ("wall_ms", "io_ms", "compute_ms", "stall_ms", "mgmt_ms", "read_bytes", "cache_hit_pct")
SETTINGS = ("cache_mb", "io_threads", "overlap", "prefetch", "n_prompt", "n_layer", "n_expert", "n_expert_used")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Per generated token, [T]: milliseconds of wall clock, of reading summed over lanes, of computing, of waiting for
    reads, of managing the cache; bytes read; percent of hits since the start. ``settings``: of the comment lines."""

    wall_ms: Vector
    io_ms: Vector
    compute_ms: Vector
    stall_ms: Vector
    mgmt_ms: Vector
    read_bytes: Vector
    cache_hit_pct: Vector
    settings: dict[str, int]

    def __len__(self) -> int:
        return len(self.wall_ms)


def read_telemetry(path: Path) -> Telemetry:
    """The telemetry in a file.

    Raises: UserError that names the column, the setting or the line that is missing or no number.
    """
    settings: dict[str, int] = {}
    names: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path, MOST_BYTES, "the telemetry").splitlines(), start=1):
        if line.startswith("#"):
            settings |= {
                name: int(value) for name, value in re.findall(r"(\w+)=(\d+)(?=\s|$)", line) if name in SETTINGS
            }
        elif not names:
            names = line.split(",")
        elif line:
            rows.append(_numbers(path.name, number, line, names))
    for column in COLUMNS:
        if column not in names:
            raise UserError(f"{path.name} lacks the column {column}")
    for setting in SETTINGS:
        if settings.get(setting) is None:
            raise UserError(f"{path.name}: its comment lines do not say {setting}")
    if not rows:
        raise UserError(f"{path.name} has no rows after its column names")
    table = np.array(rows, np.float64)
    columns: dict[str, Vector] = {column: table[:, names.index(column)] for column in COLUMNS}
    return Telemetry(**columns, settings=settings)


def _numbers(file: str, number: int, line: str, names: list[str]) -> list[float]:
    cells = line.split(",")
    if len(cells) != len(names):
        raise UserError(f"{file} line {number} has {len(cells)} columns; {len(names)} are needed")
    try:
        return [float(cell) for cell in cells]
    except ValueError as error:
        raise UserError(f"{file} line {number}: {error}") from error
