"""Turns errors of the configuration system into one sentence."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """The cause of an error in one line, without the configuration system's own bookkeeping."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause) or str(error)
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type"))]
    return " ".join(said) or type(error).__name__
