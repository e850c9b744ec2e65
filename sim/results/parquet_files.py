"""Reads Parquet files of numbers, their size checked before memory is taken."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from traces.errors import UserError
from traces.special_files import require_regular
from traces.whole_input import FREE_BYTES, UNPACKED_RATIO

VALUE_BYTES = 8


def read_numbers(path: Path, columns: Collection[str] | None = None, keys: Collection[str] = ()) -> pd.DataFrame:
    """The columns of numbers in a Parquet file, or those of them that are named, and texts of ``keys``.

    Of other columns nothing is read. Raises: UserError where it cannot be read, or where constant rows would unpack to
    more than `UNPACKED_RATIO` times the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = require_regular(path).stat().st_size
        file = pq.ParquetFile(path, read_dictionary=list(keys))
        kinds = {field.name: field.type for field in file.schema_arrow}
        chosen = [
            name
            for name, kind in kinds.items()
            if (columns is None or name in columns or name in keys)
            and (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or name in keys)
        ]
        needed = VALUE_BYTES * file.metadata.num_rows * max(1, len(chosen))
        stored = sum(
            group.column(at).total_uncompressed_size
            for group in map(file.metadata.row_group, range(file.metadata.num_row_groups))
            for at in range(group.num_columns)
            if group.column(at).path_in_schema in chosen
        )
        most = max(FREE_BYTES, UNPACKED_RATIO * size)
        if max(needed, stored) > most:
            raise UserError(
                f"{path} unpacks {size} bytes into {max(needed, stored)}; a ratio of up to {UNPACKED_RATIO} is read"
            )
        table: pd.DataFrame = file.read(columns=chosen).to_pandas()
        return table
    except UserError:
        raise
    except Exception as error:  # pyarrow raises a dozen kinds for missing, cut and foreign files
        raise UserError(f"{path} cannot be read: {error}") from error
