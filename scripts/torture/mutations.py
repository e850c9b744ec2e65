"""Ways to corrupt a file: each takes a random generator and bytes and gives other bytes, the same for the same seed."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

WORDS = (
    0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1,
)  # fmt: skip
TEXTS = (
    "-1", "0", "1", "1e999", "-1e999", "NaN", "nan", ".inf", "-Infinity", "Infinity", "null", "true", "~", "''", '""',
    "1" * 30, "1" * 5000, "-9223372036854775809", "0.5", "1e-320", "0x10", "1_000", "[]", "{}", "[1]", '{"a": 1}',
    "[" * 2000, '{"a":' * 2000, "../../../etc/passwd", "/dev/zero", "${oc.env:HOME}", "${", "*a", "&a [*a]",
    "!!python/object:os.system",
    "\u0663", "²", "\ud800", "\x00", "\x1b[31m", "é", "a" * 20000, "2147483648", "65536", "256", "1000000000000",
)  # fmt: skip
CLAIMS: tuple[Any, ...] = (
    -1, 0, 1, 2, 7, 255, 256, 65535, 65536, 2**31, 2**40, 2**62, 2**63, 2**64, 10**30, 1.5, True, None, "1", [], {},
    float("nan"), float("inf"), "", "\ud800", "U8", "BF16", [0], [0, 0], [1, 0], [-1, 5], [2**63, 2**63 + 8],
)  # fmt: skip


def flip(rng: random.Random, data: bytes) -> bytes:
    """A few bits turned over."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """A number at the limits of its type, or noise, written over something."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(WORDS) % (1 << 8 * width)
    at = rng.randrange(max(1, len(data) - width + 1))
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def truncate(rng: random.Random, data: bytes) -> bytes:
    """The beginning only."""
    return data[: rng.randrange(len(data) + 1)]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    """A piece taken away."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 8, 64, 512)) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Something put in: noise, zeros, bytes that are no UTF-8, a copy of another piece."""
    at, start = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    noise, zeros = rng.randbytes(rng.choice((1, 4, 64))), bytes(rng.choice((1, 8, 4096)))
    copied = data[start : start + rng.choice((1, 16, 256))]
    pieces: tuple[bytes, ...] = (noise, zeros, copied, b"\xff\xfe", b"\xc3\x28", b"\r", b"\n")
    piece = rng.choice(pieces)
    return data[:at] + piece + data[at:]


def zero_out(rng: random.Random, data: bytes) -> bytes:
    """A piece set to zeros, as after a power failure."""
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((8, 64, 512, 4096)))
    return data[:start] + bytes(stop - start) + data[stop:]


def replace_word(rng: random.Random, data: bytes) -> bytes:
    """A number or word of a text replaced by one that somebody forgot to think of."""
    spots = [match.span() for match in re.finditer(rb"[\w.+-]+", data[:200_000])]
    if not spots:
        return insert(rng, data)
    start, stop = rng.choice(spots)
    return data[:start] + rng.choice(TEXTS).encode("utf-8", "surrogatepass") + data[stop:]


def swap_lines(rng: random.Random, data: bytes) -> bytes:
    """Lines taken away, doubled or exchanged."""
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(3):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def several(rng: random.Random, data: bytes) -> bytes:
    """Two or three of the above, one after the other."""
    for _ in range(rng.choice((2, 3))):
        data = rng.choice(BYTES)(rng, data)
    return data


BYTES: tuple[Mutation, ...] = (flip, overwrite, truncate, cut_out, insert, zero_out)
BINARY: tuple[Mutation, ...] = (*BYTES, several)
TEXT: tuple[Mutation, ...] = (*BYTES, replace_word, replace_word, replace_word, swap_lines, several)


def spoil_json(rng: random.Random, value: Any) -> Any:
    """One place somewhere in a JSON value changed, taken away or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(10):
            case 0:
                return {name: entry for name, entry in value.items() if name != key}
            case 1:
                return value | {rng.choice(TEXTS): rng.choice(CLAIMS)}
            case _:
                return value | {key: spoil_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [spoil_json(rng, entry) if i == at else entry for i, entry in enumerate(value)]
    if isinstance(value, str) and value[:1] in "{[" and rng.random() < 0.8:
        try:
            return json.dumps(spoil_json(rng, json.loads(value)))  # JSON inside of JSON
        except (ValueError, RecursionError):
            pass
    if isinstance(value, int) and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 8))
    return rng.choice((*CLAIMS, *TEXTS))


def spoil_json_file(rng: random.Random, data: bytes) -> bytes:
    """A JSON file, or one line of JSON lines, with one value changed."""
    lines = data.split(b"\n")
    whole = not data.startswith(b'{"')
    at = rng.randrange(max(1, len(lines) - 1))
    try:
        changed = json.dumps(spoil_json(rng, json.loads(data if whole else lines[at])))
    except (ValueError, RecursionError):
        return flip(rng, data)
    text = changed.encode("utf-8", "surrogatepass")
    return text if whole else b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def spoil_header(rng: random.Random, data: bytes) -> bytes:
    """The header of a safetensors file with one claim changed, and its length made to fit."""
    length = struct.unpack("<Q", data[:8])[0]
    header = spoil_json(rng, json.loads(data[8 : 8 + length]))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    body = data[8 + length :]
    if rng.random() < 0.1:
        length = rng.choice(WORDS)
        return struct.pack("<Q", length) + text + body
    return struct.pack("<Q", len(text)) + text + body


def spoil_unproved(rng: random.Random, data: bytes) -> bytes:
    """A trace without the hash of its content, as others may write it, with something else spoiled."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"].pop("content_hash", None)
    text = json.dumps(header).encode()
    unproved = struct.pack("<Q", len(text)) + text + data[8 + length :]
    return rng.choice((flip, overwrite, zero_out, spoil_header))(rng, unproved)


def spoil_npy(rng: random.Random, data: bytes) -> bytes:
    """An .npy array with a changed header: shape, type, order, version; or with spoiled data."""
    if data[:6] != b"\x93NUMPY" or rng.random() < 0.3:
        return rng.choice(BINARY)(rng, data)
    length = struct.unpack("<H", data[8:10])[0]
    text, body = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    shape = rng.choice(("(-1,)", "(0, 3, 2)", "(1000000000000, 3, 2)", "(-2, -3, 2)", "(2**40,)", "5", "()", "(6, 3)"))
    kind = rng.choice(("|O", "<f8", ">i8", "<U4", "<M8[s]", "|V8", "<c16", "|b1", "|u1", "<i2", "<i8", "<f2"))
    text = rng.choice(
        (
            re.sub(r"\(.*?\)", shape, text, count=1),
            re.sub(r"'descr': '[^']*'", f"'descr': '{kind}'", text),
            re.sub(r"'descr': '[^']*'", "'descr': [('a', '<i8'), ('b', '|O')]", text),
            text.replace("False", "True"),
            text.replace("{", rng.choice(("{" * 300, "[", "__import__('os').system('x'),{")), 1),
            re.sub(r"\d+", rng.choice(("9" * 30, "0", "1" * 5000, "1L")), text, count=1),
        )
    )
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) % 65536)
    return data[:6] + version + size + text.encode("latin1", "replace") + body


def spoil_members(rng: random.Random, data: bytes) -> bytes:
    """An .npz written anew, so that its checksums hold: one member spoiled, renamed, doubled, or blown up."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # spoiled before
        return flip(rng, data)
    at = rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(16):
        case 0 | 1:
            name = rng.choice(("../../evil.npy", "/etc/passwd.npy", "\x00.npy", "1" * 6000 + ".npy", "é.npy", ".npy"))
        case 2 | 3:
            members.append((name, content))
        case 4:
            content = content[:128] + bytes(4_000_000)
        case 5:
            content = bomb(content)
        case _:
            content = spoil_npy(rng, content)
    members[at] = (name, content)
    out = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    kind = zipfile.ZIP_DEFLATED if len(content) > 1_000_000 else rng.choice(kinds)
    with zipfile.ZipFile(out, "w", kind, compresslevel=1) as archive:
        for one, piece in members:
            archive.writestr(zipfile.ZipInfo(one), piece, kind)
    return out.getvalue()


def bomb(content: bytes, size: int = 70_000_000) -> bytes:
    """An .npy of zeros that packs to a thousandth: its header says how many there are."""
    if content[:6] != b"\x93NUMPY":
        return bytes(size)
    length = struct.unpack("<H", content[8:10])[0]
    text = content[10 : 10 + length].decode("latin1")
    item = {"1": 1, "2": 2, "4": 4, "8": 8}.get(text.split("'descr': '", 1)[1][2:3], 1)
    shape = re.search(r"\((\d+),(.*?)\)", text)
    row = item
    for extent in re.findall(r"\d+", shape.group(2)) if shape else ():
        row *= int(extent)
    rows = max(1, size // max(1, row))
    text = re.sub(r"\(\d+,", f"({rows},", text, count=1)
    text = text.rstrip()
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return content[:8] + struct.pack("<H", len(text)) + text.encode("latin1") + bytes(rows * row)
