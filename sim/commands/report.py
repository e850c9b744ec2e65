"""Write one HTML file about a folder of runs: the answer, tables, figures, how sure it is, how to do it again.

usage: python -m sim report FOLDER [out=FOLDER/report.html] [validation=FOLDER] [baseline=POLICY] [machines=24]

FOLDER is the output folder of a run or a sweep. The file needs no network: send it, archive it, open it anywhere.
Of more than 250 runs it shows 250, of each set of conditions the best and others at even distances by rank, and says
so.

  out=FILE            where to write it (default: report.html in FOLDER; - is the standard output)
  validation=FOLDER   what `python -m sim validate` wrote, for the section on measured beside predicted times
  baseline=POLICY     a table of every run beside this one, as `compare` makes it; without it rules of your own are put
                      beside the plain policy that they change, where that was run
  machines=N          plausible machines that runs are replayed on, as `python -m sim compare --help` says; 0: nothing
                      is replayed

Examples
  python -m sim run -m policy=lru,importance,belady what_if=true sweep.name=first
  python -m sim report outputs/sweep/first
"""

from __future__ import annotations

from pathlib import Path

from sim.command_words import machines_of, read_words
from sim.terminal import next_commands

WORDS = {"out": "FILE", "validation": "FOLDER", "machines": "N", "baseline": "POLICY"}


def main(argv: list[str]) -> int:
    """Write the report -> 0. Raises: UserError for unknown words, and for folders without results."""
    word, pairs = read_words("report", argv, WORDS)
    folder, options = Path(word), {name: Path(value) for name, value in pairs if name in ("out", "validation")}
    machines, baseline = machines_of(dict(pairs)), dict(pairs).get("baseline")
    from sim.report.content import content
    from sim.report.render import render
    from traces.whole_file import check_inside, check_place, printing_beside, write_whole

    out = options.get("out", folder / "report.html")
    check_place(out)
    if "out" not in options:
        check_inside(out, folder)
    with printing_beside(out):
        page = render(content(folder, options.get("validation"), machines, baseline)).encode()
        write_whole(out, page)
        print(f"wrote {out} ({len(page) / 1e6:.1f} MB)")
        print(next_commands(["plot", folder, "notes=false"]))
    return 0
