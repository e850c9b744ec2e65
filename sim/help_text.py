"""What `--help` of a command prints: its module's text, set to the width of a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from sim.docstrings import docstring

WIDTH, WRITTEN = 80, 108
"""Characters of a line as printed; a written line that ends earlier than this was ended on purpose."""
HANGING = 32
"""A row's second column begins at most here if its further lines stand below it; else they are indented."""
_ROW = re.compile(r"(\s*\S.*?)(\s{2,})(\S.*)")


def help_of(module: Any) -> str:
    """The help of a command's module."""
    return to_width(str(module.help_text() if hasattr(module, "help_text") else docstring(module)).strip())


def to_width(text: str) -> str:
    """The text in lines of at most `WIDTH` where words allow it; rows of two columns and commands keep their shape."""
    lines: list[str] = []
    for block in _blocks(text.splitlines()):
        lines += [block] if len(block) <= WIDTH else _set(block)
    return "\n".join(lines)


def _blocks(lines: list[str]) -> Iterator[str]:
    """Paragraphs, and rows with what stands below their second column, as one line each; other lines stand alone."""
    block = ""
    for line in lines:
        if block and _goes_on(block, line):
            block += "\n" + line.strip()
            continue
        if block:
            yield block.replace("\n", " ")
        block = line
        if not line:
            yield line
    if block:
        yield block.replace("\n", " ")


def _goes_on(block: str, line: str) -> bool:
    """Whether a line goes on with what the lines before it began."""
    first, last = block.split("\n", 1)[0], block.rsplit("\n", 1)[-1]
    row, indent = _ROW.fullmatch(first), len(line) - len(line.lstrip())
    if not line or _ROW.fullmatch(line):
        return False
    if row is not None:
        return indent == row.start(3)
    if first.startswith(" ") or line.startswith((" ", "- ")):
        return False
    return len(last) + 1 + len(line.split(" ", 1)[0]) > WRITTEN


def _set(block: str) -> list[str]:
    row = _ROW.fullmatch(block)
    indent = " " * (len(block) - len(block.lstrip()))
    if row is None and block.lstrip().startswith("python -m "):
        return _command(block, indent)
    if row is None:
        below = indent + ("  " if block.lstrip().startswith("- ") else "")
        return _filled(block.strip(), indent, below)
    column = row.start(3)
    if column <= HANGING:
        return _filled(row[3], row[1] + row[2], " " * column)
    return [*([row[1]] if len(row[1]) <= WIDTH else _command(row[1], indent)), *_filled(row[3], indent + "    ")]


def _command(block: str, indent: str) -> list[str]:
    """A command over several lines, as a shell takes it."""
    lines = textwrap.wrap(block.strip(), WIDTH - len(indent) - 6, break_long_words=False, break_on_hyphens=False)
    ends = [" \\"] * (len(lines) - 1) + [""]
    return [indent + ("    " if i else "") + line + end for i, (line, end) in enumerate(zip(lines, ends, strict=True))]


def _filled(text: str, first: str, below: str | None = None) -> list[str]:
    rest = first if below is None else below
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip
