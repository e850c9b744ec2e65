"""The table of predicted beside measured times that `python -m sim validate` writes."""

from pathlib import Path

import pandas as pd

from sim.figures.drawing import MissingData
from traces.errors import UserError

FILE = "validation.csv"
COLUMNS = (
    "setting", "measured_s", "measured_low", "measured_high", "predicted_s", "predicted_low", "predicted_high",
)  # fmt: skip
HOW = "python -m sim validate"


def read_validation(path: Path) -> pd.DataFrame:
    """validation.csv of a folder (or below it), or the file itself.

    Raises: MissingData where there is none, UserError where it lacks a column or a time is no number.
    """
    files = [path] if path.is_file() else sorted(path.rglob(FILE)) if path.is_dir() else []
    if not files:
        raise MissingData(f"{path} holds no {FILE}: {HOW} writes it, a row per setting, measured and predicted")
    tables = [pd.read_csv(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        for name in COLUMNS:
            if name not in table:
                raise UserError(f"{file} lacks the column {name}: it must have {', '.join(COLUMNS)}")
            if name != "setting" and not pd.api.types.is_numeric_dtype(table[name]):
                raise UserError(f"{file}: the column {name} must hold seconds")
    return pd.concat(tables, ignore_index=True)


def errors(table: pd.DataFrame) -> pd.Series:
    """Relative error of each prediction, predicted / measured - 1."""
    return pd.Series(table["predicted_s"] / table["measured_s"] - 1.0)
