"""Reads and writes the JSON files of a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from traces.errors import UserError
from traces.whole_file import write_whole
from traces.whole_input import read_json_value


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; refuses NaN."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Names and values of a JSON file. Raises: UserError where it is missing or broken."""
    if not path.exists():
        raise UserError(f"{path} is missing: its run did not finish, run it again or remove its folder")
    content = read_json_value(path, "the file")
    try:
        json.dumps(content, ensure_ascii=False).encode()  # raises for halves of characters, which no table can hold
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is broken: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it must hold names and values")
    return content
