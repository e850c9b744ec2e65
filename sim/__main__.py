"""``python -m sim COMMAND ...``: finds the command and turns every expected error into one sentence."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sim.commands
from sim.docstrings import docstring
from sim.errors import sentence_of, system_error
from sim.terminal import visible_output
from traces.errors import UserError
from traces.text import printable


def command_names() -> list[str]:
    """The commands: one module each in sim/commands."""
    return sorted(module.name.rstrip("_").replace("_", "-") for module in pkgutil.iter_modules(sim.commands.__path__))


def load(name: str) -> object:
    """The module of a command."""
    module = name.replace("-", "_")
    return importlib.import_module(f"sim.commands.{module + '_' if module == 'import' else module}")


def overview() -> str:
    """The text of ``python -m sim --help``."""
    lines = [
        "usage: python -m sim COMMAND [arguments]",
        "",
        "Evaluates rules for keeping Mixture-of-Experts experts on a",
    ]
    lines[-1] += " small device: replays routing traces on a modelled machine."
    lines += ["", "commands (python -m sim COMMAND --help teaches each):"]
    for name in command_names():
        lines.append(f"  {name:<16} {docstring(load(name)).strip().splitlines()[0]}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run one command -> exit status: 0, 2 for bad input or output that cannot be written, 130 when interrupted."""
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    status = 0
    try:
        with visible_output():
            status = _main(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return _end_output(error, status)
    return status


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in (*HELP, "help"):
        from sim.help_text import to_width

        print(to_width(overview()))
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"moe-offload-sim {version('moe-offload-sim')}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in command_names():
        from sim.config import suggest

        return _refuse(f"{name} is not a command; {suggest(name, command_names())}")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of ending as a traceback or exit code 1
    os.environ["MPLBACKEND"] = "agg"  # figures go into files, whatever a notebook or a desktop has set
    try:
        with _noted_interrupts() as interrupted:
            return _run(name, rest, interrupted)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the second Ctrl-C of somebody impatient
        print("interrupted", file=sys.stderr)
        return 130


def _refuse(sentence: str) -> int:
    """Say what is wrong -> exit status."""
    try:
        print(f"error: {printable(sentence)}", file=sys.stderr)
    except OSError:
        _silence(sys.stderr)
    return 2


def _end_output(error: OSError, status: int) -> int:
    """Our output cannot be written any more: be silent from here on -> exit status, that of a command that failed."""
    _silence(sys.stdout)
    if status or isinstance(error, BrokenPipeError):  # whoever reads it, such as head, has seen enough
        return status
    return _refuse(f"the output cannot be written: {system_error(error)}")


def _silence(stream: Any) -> None:
    """What is still in a stream's buffer goes nowhere, or Python would complain at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


HELP = ("-h", "--help")
LEAST_MB = 800
LEAST_MB_OF = {"record": 1600, "quality": 1600, "train-predictor": 1600, "calibrate": 1600}
"""Megabytes of address space, and half of them of data, measured: with less, LLVM and torch abort, hang or crash."""


def _check_memory(name: str) -> None:
    """Raises: UserError where a limit (ulimit -v or -d) leaves a command less than the libraries that it loads need."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    least = LEAST_MB_OF.get(name, LEAST_MB)
    for limit, what, needed in (
        (resource.RLIMIT_AS, "address space is limited (ulimit -v)", least),
        (resource.RLIMIT_DATA, "memory for data is limited (ulimit -d)", least // 2),
    ):
        allowed = resource.getrlimit(limit)[0]
        if allowed != resource.RLIM_INFINITY and allowed < needed * 10**6:
            raise UserError(f"the {what} to {allowed // 10**6} MB: {name} needs at least {needed}, or no limit")


def _check_surroundings(words: list[str]) -> None:
    """Raises: UserError for a word that no override is or that files could not hold, for numba told to use no thread,
    and where the current folder is gone."""
    if any(word.startswith("=") for word in words):
        raise UserError("an override has no name before its =: write name=value without blanks")
    if "" in words:
        raise UserError("an argument is empty: must be a name, or name=value")
    try:
        folder = str(Path.cwd())
    except OSError as error:
        raise UserError(f"the current folder is gone or cannot be read: {error.strerror}; change to another") from error
    for word in (*words, folder):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{word}: is no UTF-8 text: give the file or folder another name") from error
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not re.fullmatch(r"\s*0*[1-9]\d{0,8}\s*", threads):
        raise UserError(f"NUMBA_NUM_THREADS={threads}: must be a whole number, at least 1")


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Fills up with each Ctrl-C: a library that swallows one goes on with half of what it was about to make."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _run(name: str, rest: list[str], interrupted: list[int]) -> int:
    """Run a command -> exit status; what goes wrong for a known reason is one sentence on standard error."""
    try:
        _check_surroundings(rest)
        if not any(word in HELP for word in rest):
            _check_memory(name)
        module = load(name)
        formats: tuple[str, ...] = getattr(module, "importer_names", tuple)()  # each has a help of its own
        if any(word in HELP for word in rest) and rest[0] not in formats:
            from sim.help_text import help_of

            print(help_of(module))
            return 0
        return int(module.main(rest))  # type: ignore[attr-defined]
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        if isinstance(error, BrokenPipeError):
            raise
        sentence = sentence_of(error)
        if sentence is None:
            raise
        return _refuse(sentence)


def command() -> None:
    """The console script `moe-sim`: the same, with the modules of the present folder found last."""
    sys.path.append(str(Path.cwd()))
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
