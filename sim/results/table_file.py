"""Parquet tables that grow by pieces and appear when they are complete."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sim.metrics.block_sums import BlockSums
from sim.metrics.step_table import Columns
from traces.whole_file import UnfinishedFile

ROW_GROUP = 8192


class TableFile:
    """A Parquet table that grows by pieces and appears under its name when it is complete.

    Row groups hold ``ROW_GROUP`` rows however large the pieces are, so that the same rows give the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self.unfinished = UnfinishedFile(path)
        self.waiting: list[Columns] = []
        self.writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def write(self, columns: Columns) -> None:
        """Add rows: columns of equal length, the same names every time."""
        self.waiting.append(columns)
        while self._waiting_rows() >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _waiting_rows(self) -> int:
        return sum(len(next(iter(columns.values()))) for columns in self.waiting)

    def _flush(self, count: int) -> None:
        """Write the first ``count`` waiting rows as one row group."""
        import pyarrow as pa  # only now: a replay begins before pyarrow is loaded
        import pyarrow.parquet as pq

        whole = {name: np.concatenate([columns[name] for columns in self.waiting]) for name in self.waiting[0]}
        self.waiting = [{name: column[count:] for name, column in whole.items()}]
        table = pa.table({name: arrow_array(column[:count]) for name, column in whole.items()})
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.unfinished.open(), table.schema, compression="zstd")
        self.writer.write_table(table)

    def close(self) -> None:
        """Write the remaining rows and give the file its name."""
        if self.waiting and (self._waiting_rows() or self.writer is None):
            self._flush(ROW_GROUP)
        if self.writer is None:
            raise ValueError(f"{self.unfinished.path.name}: nothing was written, so the columns are not known")
        self.writer.close()
        self.unfinished.finish()

    def abandon(self) -> None:
        """Remove what was written and has not got its name."""
        if self.writer is not None:
            with suppress(OSError):  # a full disk fails again
                self.writer.close()
        self.unfinished.discard()


class Sinks:
    """Passes the columns of a table on to several takers."""

    def __init__(self, blocks: BlockSums, *files: TableFile) -> None:
        self.blocks, self.files = blocks, files

    def write(self, columns: Columns) -> None:
        """Pass on a piece of the table."""
        self.blocks.write(columns)
        for file in self.files:
            file.write(columns)


def arrow_array(column: NDArray[Any]) -> Any:
    """An Arrow array over the memory of a column: Arrow's own conversion would load pandas, half a second of a run."""
    import pyarrow as pa

    data = np.ascontiguousarray(column)
    return pa.Array.from_buffers(pa.from_numpy_dtype(data.dtype), len(data), [None, pa.py_buffer(data)])


def write_table(path: Path, columns: Columns) -> None:
    """Columns as a Parquet file."""
    with TableFile(path) as file:
        file.write(columns)
