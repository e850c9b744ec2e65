"""Commands in odd surroundings, each in a process of its own: a result, or one sentence and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.command_line import environment
from scripts.torture.inputs import small_trace
from scripts.torture.tally import Tally
from traces.format.files import write_trace

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Surroundings:
    """How Python is started, and what the shell does around it."""

    name: str
    python: Sequence[str] = ()
    variables: dict[str, str | None] = field(default_factory=dict)
    before: str = ""
    """Commands of the shell ahead of it."""
    after: str = ""
    """Redirections."""
    statuses: tuple[int, ...] = (0,)


RUN = "run policy=lru engine=compiled trace.path=t.safetensors hydra.run.dir=out"
SHORT = (
    Surroundings("python -OO", ("-OO",)),
    Surroundings("python -W error", ("-W", "error")),
    Surroundings("python -X dev", ("-X", "dev")),
    Surroundings("no compiler", variables={"NUMBA_DISABLE_JIT": "1"}, statuses=(2,)),
    *(
        Surroundings(f"{threads} threads", variables={"NUMBA_NUM_THREADS": threads}, statuses=(2,))
        for threads in ("0", "-1", "many")
    ),
    Surroundings("little memory", before="ulimit -v 400000;", statuses=(0, 2)),
    Surroundings("results to a full device", after="> /dev/full", statuses=(2,)),
    Surroundings("errors to a full device", after="2> /dev/full"),
    Surroundings("no output at all", after=">&- 2>&-"),
)
LONG = (
    Surroundings("python -O", ("-O",)),
    Surroundings("python -P", ("-P",)),
    Surroundings("no input", after="<&-"),
    Surroundings("no folder", before="mkdir gone; cd gone; rmdir ../gone;", statuses=(2,)),
    Surroundings("nowhere for temporary files", variables={"TMPDIR": "/nonexistent"}),
    Surroundings("temporary files to a full device", variables={"TMPDIR": "/dev/full"}),
    Surroundings("a terminal that can do nothing", variables={
        "TERM": "dumb", "COLUMNS": "1", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
    Surroundings("no output", after=">&-"),
    *(Surroundings(f"{mebibytes} MiB", before=f"ulimit -v {mebibytes << 10};", statuses=(0, 2))
      for mebibytes in (100, 200, 300, 500, 700, 1000, 1500, 2000, 3000)),
    Surroundings("few files", before="ulimit -n 12;", statuses=(0, 2)),
    Surroundings("no cache", variables={"MOE_SIM_CACHE": "/proc/nowhere", "HOME": "/proc/nowhere"}),
)  # fmt: skip
HELP = ("--help", "run --help", "import --help", "import jsonl --help", "policies lru", "plot --help")
"""Commands whose words must not depend on how Python was started."""


def odd_surroundings(short: bool) -> Tally:
    """A run in all surroundings, help with and without docstrings, help to a full device."""
    tally = Tally("odd surroundings")
    with TemporaryDirectory() as work:
        write_trace(Path(work) / "t.safetensors", small_trace())
        for one in SHORT if short else (*SHORT, *LONG):
            status, _, errors = start(one, RUN, work)
            count(tally, f"{one.name}: run", status, errors, one.statuses)
        for words in HELP[: 2 if short else None]:
            plain, bare = (start(Surroundings("", flags), words, work) for flags in ((), ("-OO",)))
            count(tally, f"python -OO: {words}", bare[0], bare[2], (0,))
            if plain[1] != bare[1]:
                tally.defects[f"python -OO: {words}: other words"] += 1
            full = start(Surroundings("", after="> /dev/full"), words, work)
            count(tally, f"{words} to a full device", full[0], full[2], (2,))
    return tally


def start(one: Surroundings, words: str, folder: str) -> tuple[int, str, str]:
    """Status, output and errors of a command."""
    python = " ".join((sys.executable, *one.python))
    line = f"{one.before} exec {python} -m sim {words} {one.after}"
    variables = environment(TQDM_DISABLE="1", PYTHONWARNINGS=None, **one.variables)
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, env=variables, cwd=folder, timeout=PATIENCE_S
    )
    return done.returncode, done.stdout, done.stderr


def count(tally: Tally, what: str, status: int, errors: str, allowed: tuple[int, ...]) -> None:
    """Enter what came of a command."""
    tally.trials += 1
    tally.outcomes[f"exit {status}"] += 1
    last = errors.strip().splitlines()[-1][:160] if errors.strip() else ""
    if "Traceback" in errors or "Exception ignored" in errors:
        tally.defects[f"{what}: a traceback: {last}"] += 1
    elif status not in allowed:
        tally.defects[f"{what}: exit {status}: {last}"] += 1
    elif status == 2 and errors and "error: " not in errors:
        tally.defects[f"{what}: exit 2 without a sentence"] += 1
