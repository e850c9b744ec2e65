"""What is no regular file in the place of every file that is read: refused in one sentence, and never waited for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.torture.files import ALLOWED, TooSlow, read_case
from scripts.torture.readers import readers
from scripts.torture.tally import Tally

PATIENCE_S = 20.0


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("fifo"))
    path.symlink_to("fifo")


def make_folder(path: Path) -> None:
    path.mkdir()


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


KINDS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "link to a FIFO": make_link_to_fifo,
    "socket": make_socket,
    "folder": make_folder,
    "/dev/zero": link_to("/dev/zero"),
    "/dev/null": link_to("/dev/null"),
    "link to nothing": link_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
}


def special_files(names: tuple[str, ...]) -> Tally:
    """Every file of every reader's input as every kind; a reader may also do without the file, and prove its result."""
    tally = Tally("no regular file where one is read")
    before = signal.signal(signal.SIGALRM, _too_slow)
    try:
        with tempfile.TemporaryDirectory() as work:
            for name in names:
                _try_reader(name, Path(work), tally)
    finally:
        signal.signal(signal.SIGALRM, before)
    return tally


def _try_reader(name: str, work: Path, tally: Tally) -> None:
    good, folder = work / "good", work / "case"
    shutil.rmtree(good, ignore_errors=True)
    good.mkdir()
    readers()[name].make(good)
    for file in [file for file in readers()[name].corrupted if (good / file).exists()]:
        for kind, make in KINDS.items():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder)
            (folder / file).unlink()
            make(folder / file)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
            outcome = read_case(name, folder)
            signal.setitimer(signal.ITIMER_REAL, 0)
            tally.trials += 1
            tally.outcomes[outcome if outcome in ALLOWED else "failed"] += 1
            if outcome not in ALLOWED:
                tally.defects[f"{name}: {kind} for {file}: {outcome}"] += 1


def _too_slow(*_: object) -> None:
    raise TooSlow
