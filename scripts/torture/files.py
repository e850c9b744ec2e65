"""Hostile input: corrupt copies of good files shown to every reader, in a process of bounded memory and time.

Allowed outcomes: a refusal in one sentence (UserError), or a success that proves itself. Everything else is a defect:
another exception, a sentence of several lines, a wrong success, more than 1 GiB, more than 10 s of processor time, a
dead process.
"""

from __future__ import annotations

import json
import random
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import IO

from scripts.command_line import environment
from scripts.torture.readers import readers
from scripts.torture.tally import Tally
from sim.paths import ROOT
from traces.errors import UserError

MOST_BYTES = 1 << 30
HANG_S, STUCK_S, START_S = 10.0, 120.0, 600.0
"""Most seconds of processor time for one input; after how many seconds by the clock a process is given up, and one
that has not started."""
LONGEST_SENTENCE = 1500
ALLOWED = ("refused", "read")


def torture(reader: str, cases: int, seed: int, keep: Path | None = None, every_cut: bool = True) -> Tally:
    """Show `cases` corrupt inputs to a reader; a process that dies or hangs is replaced and counted.

    `every_cut`: the first half of the cases cuts the files at every length; without, all are drawn.
    """
    tally, start = Tally(f"spoiled files: {reader}"), 0
    tally.outcomes.update(dict.fromkeys((*ALLOWED, "MB more at most"), 0))
    words = (seed, cases // 2 if every_cut else 0, keep or "")
    while start < cases:
        with tempfile.TemporaryFile() as errors:
            start = _watch_child(tally, reader, start, cases, words, errors)
    return tally


def _watch_child(
    tally: Tally, reader: str, start: int, cases: int, words: tuple[object, ...], errors: IO[bytes]
) -> int:
    """Run a child from case `start` on -> the first case that it left undone."""
    command = [sys.executable, "-m", "scripts.torture.files", *map(str, (reader, start, cases, *words))]
    variables = environment(HF_HUB_OFFLINE="1", PYTHONFAULTHANDLER="1")
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=variables, cwd=ROOT)
    assert child.stdout is not None
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    at, ready, stuck = start, False, False
    while True:
        if not selector.select(STUCK_S if ready else START_S):
            child.kill()
            stuck = True
            _count(tally, f"took more than {STUCK_S:g} s", at)
            break
        line = child.stdout.readline()
        if not line:
            break
        ready, event = True, json.loads(line)
        if "peak" in event:
            megabytes = event["peak"] // 10**6
            tally.outcomes["MB more at most"] = max(tally.outcomes["MB more at most"], megabytes)
        else:
            at = event["case"] + 1
            _count(tally, event["what"], event["case"])
    child.communicate()
    if not child.returncode or at >= cases:
        return cases
    if not ready:
        errors.seek(0)
        raise RuntimeError(f"the torture of {reader} does not start: {errors.read().decode()[-2000:]}")
    if not stuck:
        _count(tally, f"process died with {child.returncode}", at)
    return at + 1


def _count(tally: Tally, outcome: str, case: int) -> None:
    """Enter what came of a case; a kind of defect under its first case, to try again with --case."""
    tally.trials += 1
    if outcome in ALLOWED:
        tally.outcomes[outcome] += 1
        return
    kind = next((known for known in tally.defects if known.startswith(f"{outcome}, first --case ")), None)
    tally.defects[kind or f"{outcome}, first --case {case}"] += 1


def corrupt_case(name: str, case: int, seed: int, good: Path, folder: Path, cuts: int = 0) -> str:
    """Write case number `case` of a reader's corrupt inputs into `folder` -> what was done.

    The first `cuts` cases cut the files at every length; each later case is drawn from (seed, reader, case) alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    files = {file: ways for file, ways in readers()[name].corrupted.items() if (good / file).exists()}
    at = case if case < cuts else sys.maxsize
    step = max(1, -(-sum((good / file).stat().st_size for file in files) // max(1, cuts)))
    for file in files:
        data = (good / file).read_bytes()
        if at * step < len(data):
            (folder / file).write_bytes(data[: at * step])
            return f"{file} cut to {at * step} bytes"
        at -= -(-len(data) // step)
    rng = random.Random(f"{seed} {name} {case}")
    file = rng.choice(list(files))
    mutation = rng.choice(files[file])
    (folder / file).write_bytes(mutation(rng, (good / file).read_bytes()))
    return f"{file} by {mutation.__name__}"


def read_case(name: str, folder: Path) -> str:
    """Read what lies in `folder` -> "refused", "read", or the defect in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            readers()[name].read(folder)
    except UserError as error:
        text = str(error)
        if "\n" in text or "\r" in text or len(text) > LONGEST_SENTENCE:
            return f"not one sentence from {_place(error)}"
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__} in {_place(error, own=True)}"
    return "read"


def _place(error: BaseException, own: bool = False) -> str:
    """Where an error was raised; `own`: the last place in this repository, with the function's name."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not own or str(ROOT) in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" + (f" {frames[-1].name}" if own else "")


def _status_bytes(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) * 1024
    return 0


class TooSlow(BaseException):
    """An input took too much processor time."""


def _too_slow(*_: object) -> None:
    raise TooSlow


def work_through(name: str, start: int, cases: int, seed: int, cuts: int, keep: str) -> None:
    """In the child: cases, a JSON line each; memory is bounded at 1 GiB above what the good input took."""
    out = sys.stdout
    sys.stdout = sys.stderr
    with tempfile.TemporaryDirectory() as work:
        good, folder = Path(work) / "good", Path(work) / "case"
        good.mkdir()
        readers()[name].make(good)
        shutil.copytree(good, folder)
        readers()[name].read(folder)  # imports and compiles; a good input is read
        before = _status_bytes("VmHWM")
        signal.signal(signal.SIGPROF, _too_slow)
        resource.setrlimit(resource.RLIMIT_DATA, (_status_bytes("VmData") + MOST_BYTES,) * 2)
        for case in range(start, cases):
            change = corrupt_case(name, case, seed, good, folder, cuts)
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            outcome = read_case(name, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if keep and outcome not in ALLOWED:
                shutil.copytree(folder, Path(keep) / f"{name} {case}".replace(" ", "_"), dirs_exist_ok=True)
            print(json.dumps({"case": case, "what": outcome, "how": change}), file=out, flush=True)
        print(json.dumps({"peak": _status_bytes("VmHWM") - before}), file=out, flush=True)


if __name__ == "__main__":
    reader, start, cases, seed, cuts, keep = sys.argv[1:]
    work_through(reader, int(start), int(cases), int(seed), int(cuts), keep)
