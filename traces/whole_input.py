"""Reads small files whole, but never more of them than their kind can need."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from traces.errors import UserError
from traces.special_files import require_regular

MOST_JSON_BYTES, MOST_JSON_VALUES = 1 << 25, 1 << 21
FREE_BYTES, UNPACKED_RATIO = 1 << 23, 100
"""What is packed may unpack into so many bytes, or into so many times what it is packed in."""


def read_bounded(path: Path, most_bytes: int, what: str) -> bytes:
    """The content of a file. Raises: UserError where it cannot be read or is larger than ``most_bytes``."""
    try:
        with require_regular(path).open("rb") as file:
            data = file.read(most_bytes + 1)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what} {path}: there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{what} {path} cannot be read: {reason}") from error
    if len(data) > most_bytes:
        raise UserError(f"{what} {path} is larger than {most_bytes} bytes, more than such a file ever holds")
    return data


def read_text(path: Path, most_bytes: int, what: str) -> str:
    """The UTF-8 text in a file. Raises: UserError as `read_bounded`, and where it is no such text."""
    data = read_bounded(path, most_bytes, what)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is {data[error.start]:#04x}"
        raise UserError(f"{what} {path} is not UTF-8 text: {byte}") from None


def parse_json(data: bytes, what: str, most_values: int = MOST_JSON_VALUES) -> Any:
    """The value that JSON text holds.

    Raises: UserError where it is none, or may hold more values than ``most_values``: parsed, a value takes some sixty
    bytes however short it was written. Commas and brackets are counted, those inside of texts, too.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > most_values:
        raise UserError(f"{what} holds more than {most_values} values, more than such a file ever holds")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is broken: {error}") from error


def read_json_value(path: Path, what: str, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """The value in a JSON file. Raises: UserError as `read_bounded` and `parse_json`."""
    return parse_json(read_bounded(path, most_bytes, what), f"{what} {path}")


def unpacked(data: bytes, what: str) -> bytes:
    """What a gzip file holds. Raises: UserError where it is damaged or unpacks to far more than its own size."""
    most = max(FREE_BYTES, UNPACKED_RATIO * len(data))
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, most + 1)
    except zlib.error as error:
        raise UserError(f"{what} is broken: {error}") from error
    if len(text) > most:
        raise UserError(f"{what} unpacks {len(data)} bytes into more than {most}")
    if not unpacker.eof:
        raise UserError(f"{what} is broken: it ends too early")
    return text
