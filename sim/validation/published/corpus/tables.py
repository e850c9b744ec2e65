"""The csv files of the corpus, read into typed rows: what their authors state, checked, nothing guessed.

A folder has `corpus.csv`, a row per measured configuration, and `machines.csv`, a row per machine. A cell that is empty
is not known. Numbers may be a range or a list ("11-12", "53.41 53.89"), whose mean counts, and may carry words after
them ("102 (llmfit measured)"); a cell of words alone states no number.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traces.errors import UserError

ROWS, MACHINES = "corpus.csv", "machines.csv"
MOST_BYTES = 64 * 2**20
"""Of one file."""
LARGEST = 1e15
"""Of any cell; what is above states no number."""
LARGEST_RATE = 1e7
"""Tokens per second; what is above is a slip of the pen."""
CONFIDENCE = ("high", "medium", "low")
TEXT = (
    "row_id", "series_id", "machine_id", "model", "quantisation", "runtime", "flags", "placement_kind",
    "placement_value", "cache_slots_or_gib", "draft_length", "context", "batch", "noise", "date", "source", "read_as",
    "quote_of_figures_only", "remarks",
)  # fmt: skip
COLUMNS = (*TEXT, "hit_rate", "miss_rate", "decode_tok_s", "prefill_tok_s", "confidence")
MACHINE_COLUMNS = (
    "machine_id", "gpu", "gpu_count", "vram_gb", "link", "link_measured_gb_s", "cpu", "cpu_cores", "ram_gb",
    "ram_type", "ram_channels", "ram_bandwidth_gb_s", "storage", "storage_gb_s", "os", "other", "source",
)  # fmt: skip
NUMBER = r"\d{1,16}(?:,\d{3})*(?:\.\d{1,9})?|\.\d{1,9}"
_STATED = re.compile(rf"^\s*(?:~|about|approximately|ca\.?|>=|=)?\s*({NUMBER})(?:\s*(?:-|–|to|\s)\s*({NUMBER}))?", re.I)
_HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of `corpus.csv`: words as they stand there, numbers read; None is not stated."""

    row_id: str
    series_id: str
    machine_id: str
    model: str
    quantisation: str
    runtime: str
    flags: str
    placement_kind: str
    placement_value: str
    cache_slots_or_gib: str
    draft_length: str
    context: str
    batch: str
    noise: str
    date: str
    source: str
    read_as: str
    quote_of_figures_only: str
    remarks: str
    confidence: str
    decode_tok_s: float | None
    prefill_tok_s: float | None
    hit_rate: float | None
    miss_rate: float | None

    @property
    def words(self) -> str:
        """All that says how it ran, in lower case: flags, placement and runtime, remarks left out."""
        return " | ".join((self.placement_value, self.flags, self.placement_kind, self.runtime)).lower()


@dataclass(frozen=True, slots=True)
class StatedMachine:
    """One row of `machines.csv`, words as they stand there."""

    machine_id: str
    gpu: str
    gpu_count: str
    vram_gb: str
    link: str
    link_measured_gb_s: str
    cpu: str
    cpu_cores: str
    ram_gb: str
    ram_type: str
    ram_channels: str
    ram_bandwidth_gb_s: str
    storage: str
    storage_gb_s: str
    os: str
    other: str
    source: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The rows of a folder, in the file's order, and its machines by name."""

    rows: tuple[Measurement, ...]
    machines: dict[str, StatedMachine]


def number_of(text: str) -> float | None:
    """The number at the start of a cell, the mean of a range or a pair; None where it starts with words.

    >>> number_of("11-12"), number_of("102 (llmfit measured)"), number_of("not stated")
    (11.5, 102.0, None)
    """
    match = _STATED.match(text)
    if match is None:
        return None
    found = [float(word.replace(",", "")) for word in match.groups() if word]
    mean = sum(found) / len(found)
    return mean if mean <= LARGEST else None


def read_corpus(folder: Path) -> Corpus:
    """The rows and machines of a folder.

    Raises: UserError that names the file, the line, the column, its value and what is allowed.
    """
    machines: dict[str, StatedMachine] = {}
    for line, cells in _read(folder / MACHINES, MACHINE_COLUMNS):
        name = _named(MACHINES, line, "machine_id", cells["machine_id"], machines)
        machines[name] = StatedMachine(**cells)
    rows: list[Measurement] = []
    seen: set[str] = set()
    for line, cells in _read(folder / ROWS, COLUMNS):
        seen.add(_named(ROWS, line, "row_id", cells["row_id"], seen))
        rows.append(measurement_of(f"{ROWS} line {line}", cells, machines))
    return Corpus(tuple(rows), machines)


def read_csv(path: Path, columns: Sequence[str], may_be_empty: bool = False) -> list[dict[str, str]]:
    """Cells by column of any csv file of the corpus, stripped; columns beyond ``columns`` are left out."""
    return [cells for _, cells in _read(path, columns, may_be_empty)]


def cell_number(file: str, line: str, column: str, text: str, least: float = 0.0, most: float = 1e12) -> float:
    """A cell that must be one number from ``least`` to ``most``. Raises: UserError that names it."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UserError(f"{file} {line}: {column}={text!r}: must be a number from {least:g} to {most:g}")
    return value


def measurement_of(where: str, cells: Mapping[str, str], machines: Container[str]) -> Measurement:
    """A row from its cells by column. Raises: UserError that names ``where``, the column, its value, what may be."""
    if cells["machine_id"] not in machines:
        raise UserError(f"{where}: machine_id={cells['machine_id']!r}: must be a machine_id of {MACHINES}")
    for column in ("series_id", "model", "source"):
        if not cells[column]:
            raise UserError(f"{where}: {column}={cells[column]!r}: must not be empty")
    if cells["confidence"].lower() not in CONFIDENCE:
        raise UserError(f"{where}: confidence={cells['confidence']!r}: must be one of {', '.join(CONFIDENCE)}")
    values: dict[str, Any] = {name: cells[name] for name in TEXT}
    values |= {name: _rate(where, name, cells[name]) for name in ("decode_tok_s", "prefill_tok_s")}
    values |= {name: _share(where, name, cells[name]) for name in ("hit_rate", "miss_rate")}
    return Measurement(**values, confidence=cells["confidence"].lower())


def _rate(where: str, column: str, text: str) -> float | None:
    """Tokens per second above zero; None where the cell is empty or of words."""
    if re.match(r"\s*(-|−)\s*[\d.]|\s*[+-]?(nan|inf)", text, re.I) or re.match(r"\s*[\d.,]+e[+-]?\d", text, re.I):
        raise UserError(f"{where}: {column}={text!r}: must be tokens per second above 0 in plain digits, or empty")
    value = number_of(text)
    if value is not None and not 0 < value <= LARGEST_RATE:
        raise UserError(f"{where}: {column}={text!r}: must be above 0 and at most {LARGEST_RATE:g}, or empty")
    return value


def _share(where: str, column: str, text: str) -> float | None:
    """A share from 0 to 1, or percent with its sign; None where the cell is empty or of words."""
    if re.match(r"\s*(-|−)\s*[\d.]|\s*[+-]?(nan|inf)", text, re.I):
        raise UserError(f"{where}: {column}={text!r}: must be a share from 0 to 1, a percentage, or empty")
    value = number_of(text)
    if value is None:
        return None
    value = value / 100 if "%" in text else value
    if not 0 <= value <= 1:
        raise UserError(f"{where}: {column}={text!r}: must be a share from 0 to 1, a percentage, or empty")
    return value


def _named(file: str, line: int, column: str, name: str, known: dict[str, StatedMachine] | set[str]) -> str:
    if not name or name in known:
        raise UserError(f"{file} line {line}: {column}={name!r}: must be there, and another one in every row")
    return name


def _read(path: Path, columns: Sequence[str], may_be_empty: bool = False) -> list[tuple[int, dict[str, str]]]:
    """(line, cells) of every row. Raises: UserError where the file is no csv of these columns."""
    if not path.is_file():
        raise UserError(f"{path} is missing: a corpus has {ROWS} and {MACHINES}")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path.name} is {path.stat().st_size} bytes long: at most {MOST_BYTES} are read")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    read: list[tuple[int, dict[str, str]]] = []
    try:
        header = next(reader, [])
        place = _places(path.name, header, columns)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path.name} line {reader.line_num}: {len(cells)} cells: must be {len(header)}, one per column"
                )
            read.append(
                (reader.line_num, {name: _cell(path.name, reader.line_num, name, cells[i]) for name, i in place})
            )
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num}: not a csv file: {error}") from None
    if not read and not may_be_empty:
        raise UserError(f"{path.name} has no rows after its column names")
    return read


def _places(file: str, header: Sequence[str], columns: Sequence[str]) -> list[tuple[str, int]]:
    names = [name.strip() for name in header]
    for name in columns:
        if names.count(name) != 1:
            raise UserError(f"{file} has the column {name} {names.count(name)} times: must have it once")
    return [(name, names.index(name)) for name in columns]


def _cell(file: str, line: int, column: str, text: str) -> str:
    if _HIDDEN.search(text):
        raise UserError(f"{file} line {line}: {column}={text!r}: must be text without control characters")
    return text.strip()
