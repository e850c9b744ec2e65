"""Reading files that others made: bounded lines of text and numpy arrays, nothing ever unpickled."""

import argparse
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import Geometry, id_dtype
from traces.special_files import require_regular
from traces.whole_input import FREE_BYTES, UNPACKED_RATIO

MAX_LINE_CHARACTERS = 1 << 20
MAX_ARRAY_BYTES = 1 << 33
MAX_UNPACKED, MAX_UNPACKED_RATIO = FREE_BYTES, UNPACKED_RATIO
"""Arrays of more than ``MAX_UNPACKED`` bytes may not be so many times larger than their file."""
FREE_TEXT, TEXT_RATIO = 1 << 22, 40
"""What packed text may unpack to, free or in times of its size: lines of routing pack to a tenth."""
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def require(source: Path, kind: str) -> Path:
    """`source` if it is there and of this kind ("file" or "folder").

    Raises: UserError otherwise.
    """
    if not (source.is_file() if kind == "file" else source.is_dir()):
        fault = "does not exist" if not source.exists() else f"is not a {kind}"
        raise UserError(f"{source} {fault}: must be a {kind}")
    return source


def sha256_of(path: Path) -> str:
    """Hash of a source file, for the provenance."""
    with require_regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_model_options(
    parser: argparse.ArgumentParser, model: str = "unknown", num_experts: int | None = None, required: bool = True
) -> None:
    """Add --num-experts, required unless the format has a default or a table is to say it, and --model."""
    unsaid = "(cannot be known)" if required else "(else as the file says, or the least that holds its ids)"
    parser.add_argument(
        "--num-experts",
        type=int,
        metavar="E",
        default=num_experts,
        required=required and num_experts is None,
        help="routed experts per layer " + (unsaid if num_experts is None else "(default: %(default)s)"),
    )
    parser.add_argument("--model", default=model, metavar="NAME", help="model name of the trace (default: %(default)s)")


def integers_option(text: str) -> tuple[int, ...]:
    """Integers of zero or more, separated by commas."""
    if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r}: must be integers of zero or more separated by commas")
    return tuple(map(int, text.split(",")))


def geometry_of(options: argparse.Namespace, num_layers: int, num_experts: int, top_k: int) -> Geometry:
    """Sizes of the model, with --model and --expert-bytes. Raises: UserError for sizes that are not one or all."""
    sizes: tuple[int, ...] | None = options.expert_bytes
    if sizes is not None:
        sizes = sizes * num_layers if len(sizes) == 1 else sizes
        if len(sizes) != num_layers:
            raise UserError(f"--expert-bytes has {len(sizes)} sizes for {num_layers} MoE layers: must be one or all")
    return Geometry(options.model, num_layers, num_experts, top_k, expert_bytes=sizes)


def check_num_experts(num_experts: int) -> None:
    """Raises: UserError for a number of experts that no trace can have."""
    if not 2 <= num_experts <= 65535:
        raise UserError(f"--num-experts={num_experts}: must be from 2 to 65535")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number from 1 and line without its end, one at a time; of a gzip file what it holds.

    Raises: UserError for a line that is no UTF-8 text or longer than a mebibyte, and for a damaged gzip file or one
    that unpacks to far more than its own size.
    """
    number = 0
    try:
        with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline=None) as file:
            while line := file.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > MAX_LINE_CHARACTERS:
                    raise UserError(f"{path.name} line {number} is longer than {MAX_LINE_CHARACTERS} characters")
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text near line {number + 1}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path.name} is a damaged gzip file near line {number + 1}: {error}") from error


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where it is a gzip file."""
    file = require_regular(path).open("rb")
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, _BoundedGzip(path, file)) if packed else file


class _BoundedGzip(gzip.GzipFile):
    """A gzip file that ends in a UserError once it has unpacked to more than a text of its size does."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(fileobj=file, mode="rb")
        self.path, self.packed, self.unpacked = path, path.stat().st_size, 0

    def read1(self, size: int = -1) -> bytes:
        """Some bytes, counted."""
        data = super().read1(size)
        self.unpacked += len(data)
        if self.unpacked > max(FREE_TEXT, TEXT_RATIO * self.packed):
            raise UserError(
                f"{self.path.name} unpacks {self.packed} bytes into more than {TEXT_RATIO} times as many, "
                "and a trace that repeats itself more than that is no recording"
            )
        return data


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Where a line stands, for errors, and its JSON value, one line at a time; blank lines hold none.

    Raises: UserError for other lines.
    """
    for number, line in numbered_lines(path):
        if not line or line.isspace():
            continue
        where = f"{path.name} line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON") from error


def integer(text: str, path: Path, number: int, field: str) -> int:
    """`text` as an integer of zero or more.

    Raises: UserError naming file, line and field.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UserError(f"{path.name} line {number}: {field}={text!r}: must be an integer of zero or more")
    return int(text)


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in an .npz file.

    Raises: UserError if it is none.
    """
    try:
        with zipfile.ZipFile(require_regular(path)) as archive:
            _check_total(archive, path)
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise UserError(f"{path.name} is not a whole .npz file ({error})") from error


def npz_array(path: Path, name: str) -> NDArray[Any]:
    """Array `name` of an .npz file, its claimed size checked before memory is taken.

    Raises: UserError for a missing, pickled, oversized or damaged array.
    """
    label = f"{name!r} of {path.name}"
    with _refusing(label), zipfile.ZipFile(require_regular(path)) as archive:
        _check_total(archive, path)
        member = f"{name}.npy"
        if member not in archive.namelist():
            raise UserError(f"{path.name} has no array {name!r}; it has {', '.join(npz_names(path)) or 'none'}")
        with archive.open(member) as stream:
            nbytes = _checked_nbytes(stream, label)
            if archive.getinfo(member).file_size != stream.tell() + nbytes:
                raise UserError(f"Array {label} does not have the size its header claims")
        with archive.open(member) as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return array


def _check_total(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises: UserError where all members together, which unpack to no more than they claim, are a bomb."""
    packed, total = path.stat().st_size, sum(member.file_size for member in archive.infolist())
    if total > min(MAX_ARRAY_BYTES, max(MAX_UNPACKED, MAX_UNPACKED_RATIO * packed)):
        raise UserError(
            f"{path.name} unpacks {packed} bytes into {total}; a ratio of up to {MAX_UNPACKED_RATIO} is read, since a "
            "trace that repeats itself more than that is no recording"
        )


def npy_array(path: Path) -> NDArray[Any]:
    """The array of an .npy file, memory mapped.

    Raises: UserError for a pickled or damaged file.
    """
    with _refusing(path.name):
        with require_regular(path).open("rb") as stream:
            nbytes = _checked_nbytes(stream, path.name)
            if path.stat().st_size != stream.tell() + nbytes:
                raise UserError(f"Array {path.name} does not have the size its header claims")
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def npy_bytes(stream: IO[bytes], size: int, label: str) -> NDArray[Any]:
    """The array of an .npy file of `size` bytes in memory. Raises: UserError as `npy_array`."""
    with _refusing(label):
        nbytes = _checked_nbytes(stream, label)
        if size != stream.tell() + nbytes:
            raise UserError(f"Array {label} does not have the size its header claims")
        stream.seek(0)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


@contextmanager
def _refusing(label: str) -> Iterator[None]:
    """Turns what reading an array raises, in a dozen ways where it is damaged, into one UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"Array {label} cannot be read: {error}") from error


def _checked_nbytes(stream: IO[bytes], label: str) -> int:
    """Bytes of data that the .npy header at `stream` claims; the stream is left at the data."""
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise UserError(f"Array {label} is of .npy version {version}; 1.0 and 2.0 are read")
    shape, _, dtype = _NPY_HEADERS[version](stream)
    if dtype.hasobject or dtype.kind not in "iuf":
        raise UserError(f"Array {label} is of type {dtype}: must be integers or floats (nothing is unpickled)")
    nbytes = dtype.itemsize
    for extent in shape:
        nbytes *= int(extent)
    if nbytes > MAX_ARRAY_BYTES:
        raise UserError(f"Array {label} claims {nbytes} bytes; at most {MAX_ARRAY_BYTES} are read")
    return nbytes


def expert_ids(array: NDArray[Any], num_experts: int, label: str) -> NDArray[Any]:
    """`array` in the smallest id type that holds `num_experts`, its values checked first.

    Raises: UserError for a value that is no integer from 0 to num_experts - 1.
    """
    if array.dtype.kind not in "iu":
        raise UserError(f"{label} is of type {array.dtype}: expert ids must be integers")
    if array.size and not (array.min() >= 0 and array.max() < num_experts):
        where = np.argwhere((array < 0) | (array >= num_experts))[0].tolist()
        raise UserError(
            f"{label} holds expert {array[tuple(where)]} at index {where}: must be from 0 to {num_experts - 1}"
        )
    return array.astype(id_dtype(num_experts))
