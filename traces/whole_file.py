"""Writes a file whole or not at all: under another name beside its place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Have what was written to a file on the disk before anything else is, such as its new name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


class UnfinishedFile:
    """A file that is written as ``beside`` and appears as ``path`` when it is complete.

    ``beside`` differs between processes, because two may write into one folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.beside = path, path.with_name(f".{path.name}.{os.getpid()}.part")

    def finish(self) -> None:
        """Flush what was written to disk, then rename it: a reader never sees half a file."""
        flush_to_disk(self.beside)
        self.beside.replace(self.path)

    def discard(self) -> None:
        """Remove what was written and not finished."""
        self.beside.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the path to write to; at the end the file is finished, after an exception it is discarded."""
    unfinished = UnfinishedFile(path)
    try:
        yield unfinished.beside
        unfinished.finish()
    except BaseException:
        unfinished.discard()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as beside:
        beside.write_bytes(content)
