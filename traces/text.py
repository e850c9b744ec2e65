"""Text of others on its way to a terminal, a page, a picture or a spreadsheet: it is shown, and does nothing."""

import hashlib
from typing import Any

MOST_CHARACTERS = 1200
_END = 300
MOST_OF_A_NAME, MOST_OF_A_SERIES = 48, 120
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula, or skips before one."""


def visible(text: str) -> str:
    """The text with everything escaped that steers: control characters, bidirectional and invisible ones.

    Ends of lines, tabs and no-break spaces stay.
    """
    return text if text.isprintable() else "".join(one if one in "\n\t\u00a0" else _shown(one) for one in text)


def printable(text: str) -> str:
    """One line of visible characters: white space collapsed, the middle of a long text left out."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - _END]} ... {text[-_END:]}"
    words = " ".join(text.split())
    return words if words.isprintable() else "".join(map(_shown, words))


def short_name(name: object, most: int = MOST_OF_A_NAME) -> str:
    """A name in visible characters on one line; of a long one the ends, and a few digits that tell it from others."""
    text = str(name)
    if len(text) > most:
        digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:4]
        text = f"{text[: most - 18]}…{text[-12:]}~{digits}"
    return text if text.isprintable() else "".join(one if one == "\u00a0" else _shown(one) for one in text)


def spreadsheet_cell(value: Any) -> Any:
    """A cell of a CSV file as a spreadsheet shows it: a text that begins like a formula gets a quote before it."""
    if not isinstance(value, str) or not value.lstrip(" \n\u00a0").startswith(FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text and "_" not in text


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
