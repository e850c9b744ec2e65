"""Tables that others made, a batch of rows at a time: CSV, TSV, JSON lines, JSON, Parquet; text also as gzip."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.importers._sources import json_lines, numbered_lines, opened
from traces.special_files import require_regular
from traces.whole_input import MOST_JSON_BYTES, parse_json, read_bounded, unpacked

BATCH_ROWS = 1 << 14
FREE_BYTES, UNPACKED_RATIO, ROW_BYTES = 1 << 26, 200, 50
"""What the rows of a Parquet file may take, free or in times of its size; what one value takes here."""
Values = Sequence[Any] | NDArray[Any]
PARQUET, JSON_LINES, JSON_VALUE = "parquet", "jsonl", "json"
DELIMITERS = {"tsv": "\t", "csv": ","}
_SUFFIXES = {"pq": PARQUET, "parquet": PARQUET, "jsonl": JSON_LINES, "ndjson": JSON_LINES, "json": JSON_VALUE}


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a table: where each stands in the file, and the values of each column, None where there is none."""

    numbers: NDArray[np.int64]
    columns: Mapping[str, Values]


class Table(Protocol):
    """A table: its columns, what its maker says of it, what a row is called, and its rows."""

    @property
    def names(self) -> list[str]: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def unit(self) -> str: ...
    def batches(self, columns: Sequence[str]) -> Iterator[Batch]: ...


def open_table(path: Path, header: Sequence[str] | None = None) -> Table:
    """The table in a file, known by its name, else by its first bytes; `header`: names of a CSV file without.

    Raises: UserError for a file that holds no table.
    """
    kind = _kind(path)
    if kind == PARQUET:
        return ParquetTable(path)
    if kind == JSON_LINES:
        return JsonTable(path)
    if kind == JSON_VALUE:
        return JsonTable(path, whole=True)
    return TextTable(path, DELIMITERS.get(kind), header)


def _kind(path: Path) -> str:
    suffixes = [suffix[1:].lower() for suffix in path.suffixes]
    name = suffixes[-2] if suffixes[-1:] == ["gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    kind = _SUFFIXES.get(name, name)
    if kind in (PARQUET, JSON_LINES, *DELIMITERS):
        return kind
    with _refusing_gzip(path), opened(path) as file:
        head = file.read(1 << 16)
    if head[:4] == b"PAR1":
        return PARQUET
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if first[:1] == b"{":
        line, end, _ = first.partition(b"\n")
        return JSON_LINES if line.rstrip()[-1:] == b"}" or not end else JSON_VALUE
    return JSON_VALUE if first[:1] == b"[" else kind


@contextmanager
def _refusing_gzip(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path.name} is a damaged gzip file: {error}") from error


@dataclass(slots=True)
class TextTable:
    """CSV: comment lines that begin with #, a line of names, a row per line. A comment may hold metadata as JSON."""

    path: Path
    delimiter: str | None
    header: Sequence[str] | None = None
    names: list[str] = field(init=False)
    metadata: dict[str, Any] = field(init=False, default_factory=dict)
    unit: str = "line"

    def __post_init__(self) -> None:
        for number, line in numbered_lines(self.path):
            if line.startswith("#"):
                self._comment(line)
            elif line.strip():
                self._name(line, number)
                return
        raise UserError(f"{self.path.name} has no rows")

    def _comment(self, line: str) -> None:
        try:
            value = json.loads(line[1:])
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            self.metadata |= value

    def _name(self, line: str, number: int) -> None:
        if self.delimiter is None or line.count(self.delimiter) == 0:
            self.delimiter = max(",\t;|", key=line.count)
        cells = self._cells(line, number)
        if self.header is None and all(cell.strip().lstrip("-").replace(".", "", 1).isdigit() for cell in cells):
            raise UserError(
                f"{self.path.name} line {number} holds numbers in place of names of columns: name them with --header"
            )
        self.names = [cell.strip() for cell in cells] if self.header is None else list(self.header)
        if len(self.names) != len(cells):
            raise UserError(
                f"--header names {len(self.names)} columns; {self.path.name} line {number} has {len(cells)}"
            )

    def _cells(self, line: str, number: int) -> list[str]:
        try:
            return next(csv.reader([line], delimiter=self.delimiter or ",", strict=True), [])
        except csv.Error as error:
            raise UserError(f"{self.path.name} line {number} is no line of a CSV file: {error}") from error

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Rows, a batch at a time; their cells are text, and None where they are empty."""
        places = [self.names.index(name) for name in columns]
        plain, begun = f"{self.delimiter}", self.header is not None
        numbers: list[int] = []
        rows: list[list[str]] = []
        for number, line in numbered_lines(self.path):
            if not line.strip() or (not begun and line.startswith("#")):
                continue
            if not begun:
                begun = True
                continue
            cells = self._cells(line, number) if '"' in line else line.split(plain)
            if len(cells) != len(self.names):
                raise UserError(
                    f"{self.path.name} line {number} has {len(cells)} columns: must have {len(self.names)}, as its "
                    "line of names"
                )
            numbers.append(number)
            rows.append(cells)
            if len(rows) == BATCH_ROWS:
                yield _text_batch(numbers, rows, columns, places)
                numbers, rows = [], []
        if rows:
            yield _text_batch(numbers, rows, columns, places)


def _text_batch(numbers: list[int], rows: list[list[str]], columns: Sequence[str], places: list[int]) -> Batch:
    values = [[row[place].strip() or None for row in rows] for place in places]
    return Batch(np.array(numbers, np.int64), dict(zip(columns, values, strict=True)))


@dataclass(slots=True)
class JsonTable:
    """An object per line, or with `whole` one list of objects. An object without any list or row is metadata."""

    path: Path
    whole: bool = False
    names: list[str] = field(init=False, default_factory=list)
    metadata: dict[str, Any] = field(init=False, default_factory=dict)
    unit: str = "line"

    def __post_init__(self) -> None:
        if self.whole:
            self.unit = "record"
        for at, (where, record) in enumerate(self._records()):
            if not isinstance(record, dict):
                raise UserError(f"{where}: must be an object of names and values, not {type(record).__name__}")
            if at == 0 and ("metadata" in record or record.get("record_type") == "metadata"):
                inner = record.get("metadata")
                self.metadata = inner if isinstance(inner, dict) else record
                continue
            self.names += [name for name in record if name not in self.names]
            if at > 64:
                break
        if not self.names:
            raise UserError(f"{self.path.name} has no lines" if not self.whole else f"{self.path.name} has no records")

    def _records(self) -> Iterator[tuple[str, Any]]:
        if not self.whole:
            yield from json_lines(self.path)
            return
        data = read_bounded(self.path, MOST_JSON_BYTES, "the file")
        value = parse_json(unpacked(data, self.path.name) if data[:2] == b"\x1f\x8b" else data, self.path.name)
        if not isinstance(value, list):
            raise UserError(f"{self.path.name}: must be a list of objects, not one {type(value).__name__}")
        for number, record in enumerate(value, 1):
            yield f"{self.path.name} record {number}", record

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Rows, a batch at a time."""
        numbers: list[int] = []
        rows: list[list[Any]] = []
        known = set(self.names)
        for at, (where, record) in enumerate(self._records()):
            if at == 0 and self.metadata:
                continue
            number = int(where.rpartition(" ")[2])
            if not isinstance(record, dict):
                raise UserError(f"{where}: must be an object of names and values, not {type(record).__name__}")
            if not known.issuperset(record):
                name = next(name for name in record if name not in known)
                raise UserError(f"{where} has the field {name!r}, which the first lines do not have")
            numbers.append(number)
            rows.append([record.get(name) for name in columns])
            if len(rows) == BATCH_ROWS:
                yield _json_batch(numbers, rows, columns)
                numbers, rows = [], []
        if rows:
            yield _json_batch(numbers, rows, columns)


def _json_batch(numbers: list[int], rows: list[list[Any]], columns: Sequence[str]) -> Batch:
    values = zip(*rows, strict=True)
    return Batch(np.array(numbers, np.int64), {name: list(one) for name, one in zip(columns, values, strict=True)})


class ParquetTable:
    """A Parquet file; what its rows take is compared with its size before any is read."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        with _refusing(path):
            schema = pq.read_schema(require_regular(path))
            self.names = list(schema.names)
            texts = [column.name for column in schema if pa.types.is_string(column.type)]
            self.file = pq.ParquetFile(path, read_dictionary=texts)
            self.metadata = _parquet_metadata(schema.metadata)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Rows, a batch at a time."""
        with _refusing(self.path):
            self._check_size(columns)
            done = 0
            for part in self.file.iter_batches(BATCH_ROWS, columns=list(columns)):
                values = {name: _arrow_values(part.column(name)) for name in columns}
                yield Batch(np.arange(done, done + part.num_rows), values)
                done += part.num_rows
            if not done:
                raise UserError(f"{self.path.name} has no rows")

    def _check_size(self, columns: Sequence[str]) -> None:
        metadata, size = self.file.metadata, self.path.stat().st_size
        needed = stored = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(at) for at in range(group.num_columns)]
            chosen = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
            needed += ROW_BYTES * max((max(chunk.num_values, group.num_rows) for chunk in chosen), default=0)
            stored += sum(chunk.total_uncompressed_size for chunk in chosen)
        if max(needed, stored) > max(FREE_BYTES, UNPACKED_RATIO * size):
            raise UserError(
                f"{self.path.name} unpacks {size} bytes into {max(needed, stored)}; a ratio of up to {UNPACKED_RATIO} "
                "is read, since a trace that repeats itself more than that is no recording"
            )


def _parquet_metadata(stored: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    try:
        value = json.loads((stored or {}).get(b"moe_offload_sim", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class _refusing:
    """What pyarrow raises, in a dozen ways for cut and foreign files, as one UserError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(f"{self.path.name} cannot be read as Parquet: {error}") from error


def _arrow_values(column: Any) -> Values:
    """Numbers as an array [n], lists of one length as [n, K], everything else as Python has it."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        known, places = column.dictionary.to_pylist(), column.indices.to_pylist()
        return [None if place is None else known[place] for place in places]
    if column.null_count:
        return list(column.to_pylist())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return numbers
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type):
        lengths = np.diff(column.offsets.to_numpy())
        flat = column.flatten()
        if len(lengths) and (lengths == lengths[0]).all() and lengths[0] and not flat.null_count:
            table: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(lengths), int(lengths[0]))
            return table
    return list(column.to_pylist())


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
