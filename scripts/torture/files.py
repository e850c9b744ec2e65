"""Hostile input: spoiled copies of good files shown to every reader, in a process of bounded memory and time.

Allowed outcomes: a refusal in one sentence (UserError), or a success that proves itself. Everything else is a defect:
another exception, a sentence of several lines, a wrong success, more than 1 GiB, more than 10 s of processor time, a
dead process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 1 << 30
HANG_S, STUCK_S = 10.0, 120.0
"""Most seconds of processor time for one input; after how many seconds by the clock a process is given up."""
LONGEST_SENTENCE = 1500


@dataclass
class Outcome:
    """What came of the cases of one reader."""

    reader: str
    cases: int = 0
    refused: int = 0
    read: int = 0
    defects: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    """A case for each kind of defect, to try again with --case."""
    peak_bytes: int = 0
    wall_s: float = 0.0


def torture(reader: str, cases: int, seed: int, keep: Path | None = None, every_cut: bool = True) -> Outcome:
    """Show `cases` spoiled inputs to a reader; a process that dies or hangs is replaced and counted.

    `every_cut`: the first half of the cases cuts the files at every length; without, all are drawn.
    """
    outcome, start, begun = Outcome(reader), 0, time.perf_counter()
    while start < cases:
        start = _batch(outcome, start, cases, seed, keep, every_cut)
    outcome.wall_s = time.perf_counter() - begun
    return outcome


def _batch(outcome: Outcome, start: int, cases: int, seed: int, keep: Path | None, every_cut: bool) -> int:
    """Run a child from case `start` on -> the first case that it left undone."""
    with tempfile.TemporaryFile() as errors:
        return _watch(outcome, start, cases, (seed, cases // 2 if every_cut else 0), keep, errors)


def _watch(
    outcome: Outcome, start: int, cases: int, drawn: tuple[int, int], keep: Path | None, errors: IO[bytes]
) -> int:
    command = [
        sys.executable,
        "-m",
        "scripts.torture.files",
        outcome.reader,
        str(start),
        str(cases),
        *map(str, drawn),
        str(keep or ""),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT)
    assert child.stdout is not None
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    at, ready = start, False
    while True:
        if not selector.select(STUCK_S if ready else 600):
            child.kill()
            _count(outcome, f"took more than {STUCK_S:g} s", at)
            break
        line = child.stdout.readline()
        if not line:
            break
        ready, event = True, json.loads(line)
        if "peak" in event:
            outcome.peak_bytes = max(outcome.peak_bytes, event["peak"])
            continue
        at = event["case"] + 1
        outcome.cases += 1
        match event["what"]:
            case "refused":
                outcome.refused += 1
            case "read":
                outcome.read += 1
            case defect:
                outcome.defects[defect] += 1
                outcome.first.setdefault(defect, event["case"])
    child.communicate()
    if child.returncode and at < cases:
        if not ready:
            errors.seek(0)
            raise RuntimeError(f"the torture of {outcome.reader} does not start: {errors.read().decode()[-2000:]}")
        if child.returncode != -9 or not outcome.defects:
            _count(outcome, f"process died with {child.returncode}", at)
        elif child.returncode == -9 and at == start and not ready:
            _count(outcome, "process was killed", at)
        return at + 1
    return cases


def _count(outcome: Outcome, defect: str, case: int) -> None:
    outcome.cases += 1
    outcome.defects[defect] += 1
    outcome.first.setdefault(defect, case)


def spoil(name: str, case: int, seed: int, good: Path, folder: Path, cuts: int = 0) -> str:
    """Write case number `case` of a reader's spoiled inputs into `folder` -> what was done.

    The first `cuts` cases cut the files at every length; each later case is drawn from (seed, reader, case) alone.
    """
    from scripts.torture.readers import readers

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    files = {file: ways for file, ways in readers()[name].spoiled.items() if (good / file).exists()}
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


def one_case(name: str, folder: Path) -> str:
    """Read what lies in `folder` -> "refused", "read", or the defect in one line."""
    from scripts.torture.readers import readers
    from traces.errors import UserError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            readers()[name].read(folder)
    except UserError as error:
        text = str(error)
        if "\n" in text or "\r" in text or len(text) > LONGEST_SENTENCE:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return f"not one sentence from {Path(where.filename).name}:{where.lineno}"
        return "refused"
    except BaseException as error:
        where = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename][-1]
        return f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno} {where.name}"
    return "read"


def _status_bytes(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) * 1024
    return 0


class TooSlow(BaseException):
    """An input took too much processor time."""


def _too_slow(*_: object) -> None:
    raise TooSlow


def child(name: str, start: int, cases: int, drawn: tuple[int, int], keep: str) -> None:
    """Work through cases, a JSON line each; memory is bounded at 1 GiB above what the good input took."""
    from scripts.torture.readers import readers

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
            told = spoil(name, case, drawn[0], good, folder, drawn[1])
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            what = one_case(name, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if keep and what not in ("refused", "read"):
                shutil.copytree(folder, Path(keep) / f"{name} {case}".replace(" ", "_"), dirs_exist_ok=True)
            print(json.dumps({"case": case, "what": what, "how": told}), file=out, flush=True)
        print(json.dumps({"peak": _status_bytes("VmHWM") - before}), file=out, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for word in ("reader", "start", "cases", "seed", "cuts", "keep"):
        parser.add_argument(word)
    words = parser.parse_args()
    child(words.reader, int(words.start), int(words.cases), (int(words.seed), int(words.cuts)), words.keep)


if __name__ == "__main__":
    main()
