"""Reads small files whole, but never more of them than their kind can need."""

from __future__ import annotations

from pathlib import Path

from traces.errors import UserError


def read_bounded(path: Path, most_bytes: int, what: str) -> bytes:
    """The content of a file. Raises: UserError where it cannot be read or is larger than ``most_bytes``."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{what} {path} is not a file")
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what} {path}: there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{what} {path} cannot be read: {reason}") from error
    if len(data) > most_bytes:
        raise UserError(f"{what} {path} is larger than {most_bytes} bytes, more than such a file ever holds")
    return data
