"""The header of a safetensors file: every claim is checked against the size of the file before it is used.

Layout: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from traces.errors import UserError
from traces.whole_input import MOST_JSON_VALUES

MAX_HEADER_BYTES = 1 << 24
"""Below the 100 MB of the safetensors library: parsed, hostile JSON takes forty times its length."""
MAX_DIMENSIONS = 8
DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: bytes begin..end of the file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """All tensors of a file in the order of their bytes, and its text metadata."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]


def read_header(file: BinaryIO) -> Header:
    """Read and check the header of an open file, from its start; the data is not touched.

    Raises: UserError for a file that is no safetensors file, is cut short, or whose header does not fit the file;
        OSError if it cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    text = _header_text(file, size)
    fields = _parse(text)
    metadata = _metadata(fields.pop("__metadata__", {}))
    entries = [_entry(name, claim) for name, claim in fields.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    return Header(_placed(entries, start=8 + len(text), size=size), metadata)


def check_header(path: Path) -> dict[str, Any]:
    """The names in the header of any safetensors file, its claims checked against the file's size.

    What others read, with types of numbers that no trace has, is first checked here: parsed, a header takes forty times
    its length. Raises: UserError naming the file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = _header_text(file, size)
        fields = _parse(text)
        fields.pop("__metadata__", None)
        ends = [claim["data_offsets"][1] for claim in fields.values()]
        if not all(map(_is_size, ends)) or max(ends, default=0) + 8 + len(text) > size:
            raise UserError("The file is truncated: its tensors end after the file")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UserError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path.name} is no safetensors file: {error}") from error
    return fields


def _header_text(file: BinaryIO, size: int) -> bytes:
    if size < 8:
        raise UserError(f"The file has {size} bytes, which is not a safetensors file: the first 8 bytes give a length")
    length = int.from_bytes(file.read(8), "little")
    first = file.read(1)
    if first not in (b"{", b"") or length < 2 or length > MAX_HEADER_BYTES:
        raise UserError(
            f"The file is not a safetensors file: it claims a header of {length} bytes that starts with {first!r}; "
            f"a header starts with '{{' and has 2 to {MAX_HEADER_BYTES} bytes"
        )
    if 8 + length > size:
        raise UserError(f"The file is truncated: the header takes {8 + length} bytes and the file has {size}")
    return first + file.read(length - 1)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        if text.count(b",") + text.count(b"[") + text.count(b"{") > MOST_JSON_VALUES:
            raise UserError(f"The header holds more than {MOST_JSON_VALUES} values")
        fields: dict[str, Any] = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"The header is not valid JSON ({type(error).__name__}): must be a safetensors file") from error
    return fields


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"The header has the name {twice!r} twice: must be different names")
    return fields


def _metadata(claim: object) -> dict[str, str]:
    if not isinstance(claim, dict) or not all(isinstance(value, str) for value in claim.values()):
        raise UserError("The header's '__metadata__' must be an object whose values are all strings")
    return claim


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(name: str, claim: object) -> Entry:
    """One tensor's claim with its types checked; offsets are still relative to the start of the data."""
    if not isinstance(claim, dict) or set(claim) != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"Tensor {name!r}: the header must give exactly 'dtype', 'shape' and 'data_offsets'")
    dtype, shape, offsets = claim["dtype"], claim["shape"], claim["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"Tensor {name!r}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise UserError(f"Tensor {name!r}: shape must be a list of at most {MAX_DIMENSIONS} sizes of zero or more")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)) or offsets[0] > offsets[1]:
        raise UserError(f"Tensor {name!r}: data_offsets must be two byte positions, the first not above the second")
    needed = DTYPES[dtype].itemsize
    for extent in shape:  # Python integers cannot overflow
        needed *= extent
    if needed != offsets[1] - offsets[0]:
        raise UserError(
            f"Tensor {name!r}: shape {shape} of {dtype} takes {needed} bytes but data_offsets span "
            f"{offsets[1] - offsets[0]}"
        )
    return Entry(name, DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _placed(entries: list[Entry], start: int, size: int) -> tuple[Entry, ...]:
    """Entries with positions in the file, proved to cover the data without gap or overlap."""
    expected = 0
    for entry in entries:
        if entry.begin != expected:
            raise UserError(
                f"Tensor {entry.name!r} starts at data byte {entry.begin} where {expected} is next: "
                "tensors must lie one after the other without gap or overlap"
            )
        expected = entry.end
    if start + expected > size:
        raise UserError(
            f"The file is truncated: its tensors end at byte {start + expected} and the file has {size} bytes"
        )
    if start + expected < size:
        raise UserError(f"The file has {size - start - expected} bytes after its last tensor: must have none")
    return tuple(replace(entry, begin=start + entry.begin, end=start + entry.end) for entry in entries)
