"""Prints a table of stress and fuzz tests: python -m scripts.torture [--short] [--only PART ...] [--seed N] [--cases N]

Parts: files (corrupt copies of every kind of file that is read), special (FIFOs, sockets, devices, folders in their
place), knobs (every knob at odd values), integers (whole runs with every number at the edges), shapes (whole commands
with every group and knob of another shape, those of Hydra too), numbers (runs of drawn compositions, whose shares,
times and sums must be what their names say), surroundings (python -O, -OO, -W error, limits, output that cannot be
written), faults (killed, out of room, interrupted, traces changed under way), load (a long trace in 2 GiB). Everything
is drawn from the seed; a defect names the case that shows it. The table says what was tried, how often, and what came
of it; exit code 1 if there was a defect. What needs no drawing (bad command lines) is in tests/torture.

  python -m scripts.torture --short                       some minutes on two cores, as CI runs it
  python -m scripts.torture                               100,000 files, 300 kills, a trace of 20 GB: hours
  python -m scripts.torture --only files --reader trace --cases 20000
  python -m scripts.torture --only files --reader trace --case 4711  one case again, its input kept in ./torture
"""

from __future__ import annotations

import random
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.command_line import parser_of, run
from scripts.torture.configuration import integer_cases, product_cases, shape_cases, try_cases
from scripts.torture.faults import faults as all_faults
from scripts.torture.files import corrupt_case, read_case, torture
from scripts.torture.hydra_settings import hydra_cases
from scripts.torture.jobs import JOBS
from scripts.torture.knobs import knob_cases
from scripts.torture.load import replay_long
from scripts.torture.numbers import drawn_runs
from scripts.torture.readers import readers
from scripts.torture.special import special_files
from scripts.torture.surroundings import odd_surroundings
from scripts.torture.tally import Tally

QUICK = (
    "trace",
    "trace, truncated scores",
    "import gpt_oss",
    "import jsonl",
    "import routed_experts npy",
    "prompts jsonl",
    "model config gemma_4_26b_a4b",
    "model gguf",
)
"""Readers of the short form: each takes a process of its own, and seconds to import what it needs."""
SHORT = ("files", "special", "knobs", "integers", "shapes", "numbers", "surroundings", "faults")


def files(options: Namespace) -> Iterator[Tally]:
    """Corrupt files; the cases are shared among the readers."""
    known = readers()
    chosen = QUICK if options.short else [name for name, reader in known.items() if reader.share]
    shares = {name: known[name].share or 1.0 for name in ([options.reader] if options.reader else chosen)}
    total = options.cases or (2000 if options.short else 110_000)
    together = Tally("spoiled files in all")
    for name, share in shares.items():
        cases = round(total * share / sum(shares.values()))
        tally = torture(name, cases, options.seed, options.keep, every_cut=not options.short)
        together.trials += tally.trials
        yield tally
    yield together


def repeat_case(name: str, case: int, seed: int) -> int:
    """One case once more, its input kept."""
    folder = Path("torture") / f"{name.replace(' ', '_')}_{case}"
    with tempfile.TemporaryDirectory() as good:
        readers()[name].make(Path(good))
        print(f"{corrupt_case(name, case, seed, Path(good), folder)}, kept in {folder}")
    outcome = read_case(name, folder)
    print(outcome)
    return 0 if outcome in ("refused", "read") else 1


def knobs(options: Namespace) -> Iterator[Tally]:
    yield knob_cases()


def special(options: Namespace) -> Iterator[Tally]:
    chosen = QUICK if options.short else tuple(name for name, reader in readers().items() if reader.share)
    yield special_files(chosen)


def integers(options: Namespace) -> Iterator[Tally]:
    cases = [*integer_cases(plain=options.short)]
    yield try_cases("numbers at the edges", cases, 24 if options.short else None, options.seed)
    pairs = [*product_cases(24 if options.short else 2000, random.Random(f"{options.seed} pairs"))]
    yield try_cases("two numbers far off at once", pairs, len({case.override for case in pairs}), options.seed)


def shapes(options: Namespace) -> Iterator[Tally]:
    cases = [*shape_cases(plain=options.short)]
    yield try_cases("configuration of another shape", cases, 24 if options.short else None, options.seed)
    cases = [*hydra_cases(plain=options.short)]
    yield try_cases("Hydra's own settings of another shape", cases, 24 if options.short else None, options.seed)


def numbers(options: Namespace) -> Iterator[Tally]:
    yield drawn_runs(40 if options.short else 2000, options.seed)


def surroundings(options: Namespace) -> Iterator[Tally]:
    yield odd_surroundings(options.short)


def faults(options: Namespace) -> Iterator[Tally]:
    counts, jobs = ((3, 2, 2, 3), ("run", "import")) if options.short else ((60, 12, 12, 20), tuple(JOBS))
    yield from all_faults(*counts, options.seed, jobs)


def load(options: Namespace) -> Iterator[Tally]:
    yield replay_long(int(options.gigabytes * 1e9))


PARTS: dict[str, Callable[[Namespace], Iterator[Tally]]] = {
    "files": files,
    "special": special,
    "knobs": knobs,
    "integers": integers,
    "shapes": shapes,
    "numbers": numbers,
    "surroundings": surroundings,
    "faults": faults,
    "load": load,
}


def main(argv: list[str]) -> int:
    """Run the parts asked for and print a table -> exit status."""
    parser = parser_of(__doc__)
    parser.add_argument("--short", action="store_true", help="some minutes, as CI runs it")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="corrupt files in all")
    parser.add_argument("--reader", help="corrupt the files of one reader only")
    parser.add_argument("--case", type=int, help="try this one case again, in this process")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that show defects")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the trace of part load")
    options = parser.parse_args(argv)
    if options.case is not None:
        return repeat_case(options.reader or "trace", options.case, options.seed)
    defects, start = 0, time.perf_counter()
    print(f"{'what was tried':<44} {'times':>7}  outcome")
    for part in options.only or (SHORT if options.short else PARTS):
        defects += sum(tally.print() for tally in PARTS[part](options))
    print(f"\nseed {options.seed}, {time.perf_counter() - start:.0f} s, {defects} defects")
    return int(defects > 0)


if __name__ == "__main__":
    run(main)
