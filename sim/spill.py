"""Rows of whole numbers in a temporary file, for what grows with the trace and is needed again."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from traces.errors import UserError

CHUNK_BYTES = 1 << 20


class Spill:
    """Rows of ``width`` numbers in a file without a name, which the system removes whatever happens.

    It lies in the folder for temporary files, which the environment variable TMPDIR chooses.
    """

    def __init__(self, dtype: DTypeLike, width: int = 1) -> None:
        self.dtype, self.width, self.length = np.dtype(dtype), width, 0
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        weakref.finalize(self, self.file.close)

    def __len__(self) -> int:
        """Number of rows."""
        return self.length

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows [n, width] (or [n]) at the end."""
        self.write(self.length, rows)

    def write(self, start: int, rows: NDArray[Any]) -> None:
        """Put rows at ``start``, over what was there. Raises: UserError if the file cannot grow."""
        data = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1, self.width)
        try:
            self.file.seek(start * self.width * self.dtype.itemsize)
            self.file.write(data.tobytes())
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"a temporary file in {tempfile.gettempdir()} cannot be written: {error.strerror or error}; "
                "set TMPDIR to a folder with more room"
            ) from error
        self.length = max(self.length, start + len(data))

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Rows start..start+count, [count, width]; [count] where the width is 1."""
        if not 0 <= start <= start + count <= self.length:
            raise IndexError(f"rows {start} to {start + count} of {self.length}")
        data = np.empty((count, self.width), self.dtype)
        self.file.seek(start * self.width * self.dtype.itemsize)
        self.file.readinto(data.view(np.uint8).reshape(-1).data)
        return data[:, 0] if self.width == 1 else data

    def chunks(self) -> Iterator[NDArray[Any]]:
        """All rows, a bounded piece at a time."""
        size = max(1, CHUNK_BYTES // (self.width * self.dtype.itemsize))
        for start in range(0, self.length, size):
            yield self.read(start, min(size, self.length - start))
