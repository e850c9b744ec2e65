"""Break the tool on purpose: python -m scripts.torture [--short] [--only PART ...] [--seed N] [--cases N]

Parts: files (spoiled copies of every kind of file that is read), knobs (bad configurations), faults (killed, out of
room, interrupted, traces changed under way), limits (odd shapes and machines), surroundings (threads, hash seeds,
locale, no home, no cache), concurrency, load (a long trace in 2 GiB). Everything is drawn from the seed; a defect
names the case that shows it. Prints a table of what was tried, how often, and what came of it; exit code 1 if there
was a defect.

  python -m scripts.torture --short                       under a minute on two cores, as CI runs it
  python -m scripts.torture                               100,000 files, 300 kills, a trace of 20 GB: an hour
  python -m scripts.torture --only files --reader trace --cases 20000
  python -m scripts.torture --only files --reader trace --case 4711  one case again, its input kept in ./torture
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from scripts.torture.files import ROOT, one_case, spoil, torture

PARTS = ("files", "knobs", "faults", "limits", "surroundings", "concurrency", "load")
QUICK = ("trace", "trace, truncated scores", "import gpt_oss", "import jsonl", "import routed npy", "prompts jsonl")
"""Readers of the short form: each takes a process of its own, and seconds to import what it needs."""
SHORT = ("files", "knobs", "faults", "limits")


def main() -> int:
    """Run the parts asked for and print a table -> exit status."""
    words = _parser().parse_args()
    if words.case is not None:
        return again(words.reader or "trace", words.case, words.seed)
    defects, begun = 0, time.perf_counter()
    print(f"{'what was tried':<44} {'times':>7}  outcome")
    for part in words.only or (SHORT if words.short else PARTS):
        defects += RUN[part](words)
    print(f"\nseed {words.seed}, {time.perf_counter() - begun:.0f} s, {defects} defects")
    return 1 if defects else 0


def row(what: str, times: int, outcomes: dict[str, int], defects: dict[str, int]) -> int:
    """Print one line of the table and a line for each defect -> number of defects."""
    said = ", ".join(f"{name} {count}" for name, count in outcomes.items())
    print(f"{what:<44} {times:>7}  {said}", flush=True)
    for defect, count in defects.items():
        print(f"    DEFECT, {count} times: {defect}", flush=True)
    return sum(defects.values())


def files(words: argparse.Namespace) -> int:
    """Spoiled files; the cases are shared among the readers."""
    from scripts.torture.readers import readers

    few = QUICK if words.short else [name for name, reader in readers().items() if reader.share]
    names = [words.reader] if words.reader else few
    total = words.cases or (2000 if words.short else 110_000)
    shares = sum(readers()[name].share or 1.0 for name in names)
    found, tried = 0, 0
    for name in names:
        outcome = torture(
            name, round(total * (readers()[name].share or 1.0) / shares), words.seed, words.keep, not words.short
        )
        kinds = {f"{what}, first --case {outcome.first[what]}": count for what, count in outcome.defects.items()}
        came = {"refused": outcome.refused, "read": outcome.read, "MB more at most": outcome.peak_bytes // 10**6}
        found += row(f"spoiled files: {name}", outcome.cases, came, kinds)
        tried += outcome.cases
    return found + row("spoiled files in all", tried, {}, {})


def again(name: str, case: int, seed: int) -> int:
    """One case once more, its input kept."""
    from scripts.torture.readers import readers

    folder = Path("torture") / f"{name.replace(' ', '_')}_{case}"
    with tempfile.TemporaryDirectory() as good:
        readers()[name].make(Path(good))
        print(f"{spoil(name, case, seed, Path(good), folder)}, kept in {folder}")
    outcome = one_case(name, folder)
    print(outcome)
    return 0 if outcome in ("refused", "read") else 1


def knobs(words: argparse.Namespace) -> int:
    from scripts.torture.knobs import command_cases, knob_cases

    return sum(row(t.what, t.trials, t.outcomes, t.defects) for t in (knob_cases(), command_cases()))


def faults(words: argparse.Namespace) -> int:
    """In a process of its own, which forks a child for each trial."""
    counts, jobs = ((3, 2, 2, 3), ["run", "import"]) if words.short else ((60, 12, 12, 20), [])
    argv = [sys.executable, "-m", "scripts.torture.faults", *map(str, counts), str(words.seed), *jobs]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode:
        return row("faults", 0, {}, {f"do not start: {done.stderr.strip()[-300:]}": 1})
    return sum(row(*json.loads(line)) for line in done.stdout.splitlines() if line.startswith("["))


def limits(words: argparse.Namespace) -> int:
    from scripts.torture.limits import limits as shapes

    tally = shapes()
    return row(tally.what, tally.trials, tally.outcomes, tally.defects)


def surroundings(words: argparse.Namespace) -> int:
    from scripts.torture.limits import same_bytes

    tally = same_bytes()
    return row(tally.what, tally.trials, tally.outcomes, tally.defects)


def concurrency(words: argparse.Namespace) -> int:
    from scripts.torture.limits import at_once, demo_training_at_once

    return sum(row(t.what, t.trials, t.outcomes, t.defects) for t in (at_once(), demo_training_at_once()))


def load(words: argparse.Namespace) -> int:
    from scripts.torture.limits import free_bytes
    from scripts.torture.limits import load as replay_long

    size = int(words.gigabytes * 1e9)
    if free_bytes() < 0.1 * size:
        return row("load", 0, Counter({"not tried: no room for the trace, see TORTURE_FOLDER": 1}), {})
    tally = replay_long(size)
    return row(tally.what, tally.trials, tally.outcomes, tally.defects)


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "files": files,
    "knobs": knobs,
    "faults": faults,
    "limits": limits,
    "surroundings": surroundings,
    "concurrency": concurrency,
    "load": load,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="under a minute, as CI runs it")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="spoiled files in all")
    parser.add_argument("--reader", help="spoil the files of one reader only")
    parser.add_argument("--case", type=int, help="try this one case again, in this process")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that show defects")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the trace of part load")
    return parser


if __name__ == "__main__":
    sys.exit(main())
