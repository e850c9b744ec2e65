"""Everything that a command prints passes here: what others wrote is shown and does nothing to the terminal."""

from __future__ import annotations

import io
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from traces.text import printable, visible


def next_commands(*commands: Sequence[object]) -> str:
    """What a reader may want to run next, in full: the words after `python -m sim` of each command."""
    lines = [f"python -m sim {shlex.join([str(word) for word in words])}" for words in commands]
    return "\n      ".join([f"next: {lines[0]}", *lines[1:]])


class VisibleStream:
    """A text stream that escapes what steers a terminal; all else is the stream's own.

    ``redraws``: a carriage return at the start of a write passes, which is how a progress bar draws itself again.
    """

    def __init__(self, stream: Any, redraws: bool) -> None:
        self._stream, self._redraws = stream, redraws

    def write(self, text: str) -> int:
        """Write the text, escaped."""
        mark = "\r" if self._redraws and text.startswith("\r") else ""
        if self._stream is not None:  # a closed one is None
            self._stream.write(mark + visible(text[len(mark) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def visible_output() -> Iterator[None]:
    """Inside, standard output, standard error and warnings are visible text; warnings tell no path."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):  # where the terminal knows no Unicode, escapes stand in for it
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _tell
        sys.stdout, sys.stderr = (
            stream if isinstance(stream, VisibleStream) else VisibleStream(stream, redraws=stream is before[1])
            for stream in before
        )
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _tell(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning in one line."""
    if sys.stderr is not None:
        print(f"warning: {printable(str(message))}", file=sys.stderr)
