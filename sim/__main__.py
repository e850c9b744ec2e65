"""``python -m sim COMMAND ...``: finds the command and turns every expected error into one sentence."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import sim.commands
from sim.errors import one_line, system_error
from traces.errors import UserError


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
        lines.append(f"  {name:<16} {(load(name).__doc__ or '').strip().splitlines()[0]}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run one command -> exit status: 0, 2 for bad input, 130 when interrupted."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in command_names():
        near = get_close_matches(name, command_names(), 1)
        hint = f"did you mean {near[0]}?" if near else "commands: " + ", ".join(command_names())
        print(f"error: {name} is not a command; {hint}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where the terminal knows no Unicode, escapes stand in for it
            stream.reconfigure(errors="backslashreplace")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of ending as a traceback or exit code 1
    try:
        with _noted_interrupts() as interrupted:
            return _run(name, rest, interrupted)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the second Ctrl-C of somebody impatient
        print("interrupted", file=sys.stderr)
        return 130


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
    module = load(name)
    formats: tuple[str, ...] = getattr(module, "importer_names", tuple)()  # each has a help of its own
    if any(word in ("-h", "--help") for word in rest) and rest[0] not in formats:
        print((module.help_text() if hasattr(module, "help_text") else module.__doc__ or "").strip())
        return 0
    if any(word.startswith("=") for word in rest):
        print("error: an override has no name before its =: write name=value without blanks", file=sys.stderr)
        return 2
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        try:
            return int(module.main(rest))  # type: ignore[attr-defined]
        except Exception as error:
            if interrupted:
                raise KeyboardInterrupt from error
            raise
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
    except BrokenPipeError:  # whoever reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError) as error:
        print(f"error: {system_error(error)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
