"""Writes a file whole or not at all: under another name beside its place, then renamed. Every writer comes here.

- A link is followed: what it leads to gets the new content, the link stays.
- Only a regular file is ever replaced. Pipes, terminals and character devices are written into (``-`` is the standard
  output); folders, sockets and disks are refused.
- The name beside cannot be guessed, and is opened only where nothing has it: a link prepared there overwrites nothing.
- What fails names the file that was asked for, and leaves nothing behind.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any

from traces.errors import UserError

STANDARD_OUTPUT = "-"
MOST_LINKS = 40
_NAME_KEPT = 40
"""Characters of a name that its unfinished form repeats, so that it is never too long for a file system."""
_CREATE: int = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_STREAM: int = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOCTTY", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link that leads nowhere"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk"),
    (stat.S_ISSOCK, "a socket"),
)


def unfinished_name(name: str) -> str:
    """A hidden name that nobody can guess, for what will be called ``name``."""
    return f".{name[:_NAME_KEPT]}.{secrets.token_hex(8)}.part"


def flush_to_disk(path: Path) -> None:
    """Have what was written to a file on the disk before anything else is, such as its new name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises: UserError where something else has its name; OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        taken = next((path for path in (folder, *folder.parents) if path.exists() or path.is_symlink()), folder)
        raise UserError(f"{taken} is {_kind(taken)}: must be a folder, or a name that nothing has") from error


def is_stream(path: Path) -> bool:
    """Whether bytes go into something as they come: ``-``, a pipe, a device, an open file such as /dev/stdout."""
    if str(path) == STANDARD_OUTPUT or _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # who opens it says what is wrong
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def is_standard_output(path: Path) -> bool:
    """Whether what is written to ``path`` ends where this program prints."""
    if str(path) == STANDARD_OUTPUT:
        return True
    try:
        return is_stream(path) and os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


@contextmanager
def printing_beside(path: Path) -> Iterator[None]:
    """What is printed inside goes to standard error if ``path`` is the standard output, which holds the file alone."""
    if is_standard_output(path):
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def check_place(path: Path) -> None:
    """Refuse, before anything slow is done, a place where nothing can be written. Raises: UserError."""
    if is_stream(path):
        return
    _regular_target(path)
    above = next(folder for folder in path.absolute().parents if folder.exists() or folder.is_symlink())
    if not above.is_dir():
        raise UserError(f"{path.parent} cannot be a folder: {above} is {_kind(above)}, no folder")


def check_folder(folder: Path) -> None:
    """Refuse, before anything slow is done, what can be no folder of several files. Raises: UserError."""
    if is_stream(folder):
        raise UserError(f"out={folder}: several files are written, so out= must be a folder")
    check_place(folder / "file")


def check_inside(path: Path, folder: Path) -> None:
    """Raises: UserError where a link in a folder that others may have made leads what is written there out of it."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path} leads out of {folder} to {os.path.realpath(path)}: name another place with out=")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Failures of the system inside name the file that was asked for, whatever was open when they came."""
    try:
        yield
    except BrokenPipeError:  # whoever reads has seen enough
        raise
    except OSError as error:
        if error.errno is None:
            raise
        name = "the standard output" if str(path) == STANDARD_OUTPUT else str(path)
        raise OSError(error.errno, os.strerror(error.errno), name) from error


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    return next((name for test, name in _KINDS if test(mode)), "a file")


def _descriptor(path: Path) -> Path | None:
    """The name /proc/PROCESS/fd/NUMBER that a path leads through: an open file, not a place in a folder."""
    place = path.absolute()
    for _ in range(MOST_LINKS):
        folder = Path(os.path.realpath(place.parent))
        place = folder / place.name
        if str(folder) == "/dev/fd" or (folder.parts[:2] == ("/", "proc") and folder.name == "fd"):
            return place
        if not place.is_symlink():
            return None
        place = folder / place.readlink()
    return None


def _regular_target(path: Path) -> Path:
    """The file that ``path`` names once its links are followed, which need not exist yet.

    Raises: UserError where something else than a regular file has that name.
    """
    target = Path(os.path.realpath(path))
    try:
        regular = stat.S_ISREG(target.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return target
    if not regular or _descriptor(path) is not None:
        raise UserError(f"{path} is {_kind(target)}: must be a file, or a name that nothing has")
    return target


def _open_stream(path: Path) -> int:
    """A descriptor that writes into a stream, behind what an open file holds already."""
    if str(path) == STANDARD_OUTPUT:
        return os.dup(1)
    place = _descriptor(path)
    if place is not None and str(place).startswith((f"/proc/{os.getpid()}/", "/dev/fd/")):
        return os.dup(int(place.name))
    opened = os.open(path, _STREAM)
    if stat.S_ISREG(os.fstat(opened).st_mode) and place is None:
        os.close(opened)
        raise UserError(f"{path} was exchanged for a file while it was opened")
    return opened


class _Named(io.FileIO):
    """A file whose failures name the file that was asked for."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self.path = path

    def write(self, data: Any) -> int:
        with naming(self.path):
            return super().write(data)


class UnfinishedFile:
    """A file that is written beside its place and appears as ``path`` when it is complete; nothing before ``open``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = self._beside = path
        self._file: IO[bytes] | None = None

    def open(self) -> IO[bytes]:
        """Make the folder and the unfinished file.

        Raises: UserError where something else than a file has the name; OSError that names ``path``.
        """
        make_folder(self.path.parent)
        with naming(self.path):
            self._target = _regular_target(self.path)
            self._beside = self._target.with_name(unfinished_name(self._target.name))
            descriptor = os.open(self._beside, _CREATE, 0o666)
            self._file = io.BufferedWriter(_Named(descriptor, self.path))
            with suppress(OSError, AttributeError):  # nothing there yet; no such rights on this system
                os.fchmod(descriptor, self._target.stat().st_mode & 0o777)  # who could not read it still cannot
        return self._file

    def finish(self) -> None:
        """Flush what was written to disk, then rename it: a reader never sees half a file."""
        assert self._file is not None
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            if not os.path.samestat(os.fstat(self._file.fileno()), self._beside.lstat()):
                raise UserError(f"{self.path}: its unfinished file {self._beside} was exchanged by another program")
            self._file.close()
            _regular_target(self._target)
            self._beside.replace(self._target)
        self._file = None

    def discard(self) -> None:
        """Remove what was written and not finished."""
        if self._file is None:
            return
        with suppress(OSError):  # a full disk fails again
            self._file.close()
        with suppress(OSError):
            self._beside.unlink()
        self._file = None


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Gives what to write to; at the end the file gets its name, after an exception it is discarded.

    A stream takes the bytes as they come, and keeps what it took. Raises: as ``UnfinishedFile``.
    """
    if is_stream(path):
        with naming(path):
            sys.stdout.flush()
            with io.BufferedWriter(_Named(_open_stream(path), path)) as stream:
                yield stream
        return
    unfinished = UnfinishedFile(path)
    try:
        yield unfinished.open()
        unfinished.finish()
    finally:
        unfinished.discard()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(content)
