"""Reads the csv files in which others publish what they measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from traces.errors import UserError
from traces.whole_input import read_text

MOST_BYTES = 1 << 25


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Cells by column of every row, "" where a row ends early.

    Raises: UserError where the file is no text, no csv, or lacks one of the columns.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, MOST_BYTES, "the table"), newline=""), restval="")
    try:
        for name in columns:
            if name not in (reader.fieldnames or ()):
                raise UserError(f"{path.name} lacks the column {name}")
        return list(reader)
    except csv.Error as error:
        raise UserError(f"{path.name} line {reader.line_num}: not a csv file: {error}") from None
