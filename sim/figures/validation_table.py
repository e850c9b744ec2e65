"""The table of predicted beside measured times that `python -m sim validate` writes."""

import io
from pathlib import Path

import pandas as pd

from sim.figures.drawing import MissingData
from sim.paths import files_named
from traces.errors import UserError
from traces.text import short_name
from traces.whole_input import read_bounded

FILE = "validation.csv"
COLUMNS = (
    "setting", "measured_s", "measured_low", "measured_high", "predicted_s", "predicted_low", "predicted_high",
)  # fmt: skip
MOST_BYTES = 1 << 24
HOW = "python -m sim validate"


def read_validation(path: Path) -> pd.DataFrame:
    """validation.csv of a folder (or below it), or the file itself.

    Raises: MissingData where there is none, UserError where it lacks a column or a time is no number.
    """
    files = [path] if path.is_file() else sorted(files_named(path, FILE)) if path.is_dir() else []
    if not files:
        raise MissingData(f"{path} holds no {FILE}: {HOW} writes it, a row per setting, measured and predicted")
    tables = [pd.read_csv(io.BytesIO(read_bounded(file, MOST_BYTES, "the table"))) for file in files]
    for file, table in zip(files, tables, strict=True):
        for name in COLUMNS:
            if name not in table:
                raise UserError(f"{file} lacks the column {name}: it must have {', '.join(COLUMNS)}")
            if name != "setting" and not pd.api.types.is_numeric_dtype(table[name]):
                raise UserError(f"{file}: the column {name} must hold seconds")
    together = pd.concat(tables, ignore_index=True)
    return together.assign(setting=together["setting"].map(short_name))


def errors(table: pd.DataFrame) -> pd.Series:
    """Relative error of each prediction, predicted / measured - 1."""
    return pd.Series(table["predicted_s"] / table["measured_s"] - 1.0)
