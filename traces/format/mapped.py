"""Mapped files: reading notices a file that was cut or rewritten meanwhile, and releases memory that is not needed."""

import itertools
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError

_HUGE_PAGE = 1 << 21
"""One touch may map as much as this, aligned; giving back less would leave the rest of it in memory."""


HELD_BYTES, PIECE_BYTES = 64 << 20, 1 << 22
"""Largest selection of rows that is copied into memory; bytes that are copied at once into a file."""
CACHED_BYTES = 1 << 18
"""Of rows that are read at once and put in another order: what a processor's cache holds."""


@dataclass(frozen=True, slots=True)
class _Watch:
    """A mapped file as it was when it was mapped."""

    file: BinaryIO
    size: int
    mtime_ns: int
    begin: int
    """Address of the first byte of the mapping."""

    def check(self) -> None:
        """Raises UserError if the file is not what it was; what was read before is then from the old content."""
        now = os.fstat(self.file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            raise UserError(
                f"{self.file.name} was changed while it was read (it had {self.size} bytes and has {now.st_size}): "
                "run again when it is complete"
            )


_WATCHED: "weakref.WeakKeyDictionary[mmap.mmap, _Watch]" = weakref.WeakKeyDictionary()


def map_file(file: BinaryIO) -> NDArray[np.uint8]:
    """The bytes of an open file that is not empty, mapped read-only; `load` and `gather` watch it from now on."""
    now = os.fstat(file.fileno())
    array: NDArray[np.uint8] = np.memmap(file, np.uint8, mode="r").view(np.ndarray)
    mapping = _mapping(array)
    if mapping is not None:
        _WATCHED[mapping] = _Watch(file, now.st_size, now.st_mtime_ns, array.__array_interface__["data"][0])
        weakref.finalize(mapping, file.close)
    return array


def load(array: NDArray[Any], into: NDArray[Any] | None = None) -> NDArray[Any]:
    """`array` in ordinary memory; a watched file is read, not touched: a mapping cut short would end the process.

    `into`: contiguous memory of the same shape and type, to be filled in place of memory of its own.

    Raises: UserError if the file was changed since it was mapped.
    """
    watch = _watch(array)
    if watch is None or not array.flags.c_contiguous:
        if into is None:
            return np.ascontiguousarray(array)
        into[...] = array
        return into
    copy = np.empty(array.shape, array.dtype) if into is None else into
    free = copy.reshape(-1).view(np.uint8).data
    start, done = array.__array_interface__["data"][0] - watch.begin, 0
    while done < copy.nbytes:
        count = os.preadv(watch.file.fileno(), [free[done:]], start + done)
        if count == 0:
            break
        done += count
    watch.check()
    return copy


def consecutive(rows: NDArray[np.int64]) -> bool:
    """Whether each row follows the one before."""
    return int(rows[-1]) - int(rows[0]) + 1 == rows.size and bool((np.diff(rows) == 1).all())


def gather(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array by number, in ordinary memory. Raises: UserError as `load`."""
    if consecutive(rows):
        return load(array[int(rows[0]) : int(rows[-1]) + 1])
    if _watch(array) is None:
        return np.ascontiguousarray(array[rows])
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    most = max(1, CACHED_BYTES // max(1, array[:1].nbytes))
    bounds = [0, *(np.flatnonzero(np.diff(wanted) > 1) + 1).tolist(), wanted.size]
    found = np.empty((rows.size, *array.shape[1:]), array.dtype)
    for begin, end in itertools.pairwise(bounds):  # each a span of the file, such as the rows of a request
        for first in range(begin, end, most):
            places, numbers = order[first : min(first + most, end)], wanted[first : min(first + most, end)]
            span = load(array[int(numbers[0]) : int(numbers[-1]) + 1])
            found[places] = span if len(span) == numbers.size else span[numbers - numbers[0]]  # some more than once
    return found


def take_spans(array: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Spans of rows, one after the other: in ordinary memory, or where they are many from a mapped file in another.

    That file has no name and goes with the array; it lies in the folder for temporary files. Raises: UserError as
    `load`, and where the file cannot be written.
    """
    total = int(lengths.sum())
    row_bytes = array[:1].nbytes
    if _watch(array) is None or total * row_bytes <= HELD_BYTES:
        joined = np.empty((total, *array.shape[1:]), array.dtype)
        done = 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            load(array[start : start + length], joined[done : done + length])
            done += length
        return joined
    rows = max(1, PIECE_BYTES // max(1, row_bytes))
    pieces = (
        load(array[first : min(first + rows, start + length)])
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        for first in range(start, start + length, rows)
    )
    return in_file(pieces, (total, *array.shape[1:]), array.dtype)


def take_columns(array: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Columns of every row, by number, some of them more than once: in ordinary memory or in a file, as `take_spans`.

    Raises: UserError as `take_spans`.
    """
    shape = (len(array), columns.size, *array.shape[2:])
    row_bytes = array[:1, :1].nbytes * columns.size
    rows = max(1, PIECE_BYTES // max(1, row_bytes))
    starts = range(0, len(array), rows)
    if len(array) * row_bytes > HELD_BYTES:
        return in_file((_columns_of(array, columns, start, rows) for start in starts), shape, array.dtype)
    taken = np.empty(shape, array.dtype)
    for start in starts:
        taken[start : start + rows] = _columns_of(array, columns, start, rows)
    return taken


def _columns_of(array: NDArray[Any], columns: NDArray[np.int64], start: int, rows: int) -> NDArray[Any]:
    """Those of some rows, which are not needed in memory any more."""
    span = array[start : start + rows]
    taken = load(span)[:, columns]
    release(span)
    return taken


def in_file(pieces: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows that come piece by piece, as an array in a mapped file without a name.

    Raises: UserError where the file cannot be written.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the mapping
    try:
        for piece in pieces:
            file.write(piece.tobytes())
        file.flush()
    except OSError as error:
        raise UserError(
            f"a temporary file in {tempfile.gettempdir()} cannot be written: {error.strerror or error}; "
            "set TMPDIR to a folder with more room"
        ) from error
    return map_file(file).view(dtype).reshape(shape)


def _watch(array: NDArray[Any]) -> _Watch | None:
    mapping = _mapping(array)
    return None if mapping is None else _WATCHED.get(mapping)


def release(array: NDArray[Any]) -> None:
    """Let go of the pages of a mapped file in which `array` lies; they are read again when they are needed.

    Every page of a mapped file that was ever read counts as memory of the process until then. Does nothing for arrays
    in ordinary memory, and nothing where the mapping may be written: changes would be lost.
    """
    mapping = _mapping(array)
    if mapping is None or array.size == 0 or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with memoryview(mapping) as view:
        if not view.readonly:
            return
        begin = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    low, high = np.lib.array_utils.byte_bounds(array)
    start = max(0, low // _HUGE_PAGE * _HUGE_PAGE - begin)
    stop = min(len(mapping), -(-high // _HUGE_PAGE) * _HUGE_PAGE - begin)
    mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The mapping an array is a view of."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None
