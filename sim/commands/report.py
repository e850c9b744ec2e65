"""Write one HTML file about a folder of runs: the answer, tables, figures, how sure it is, how to do it again.

usage: python -m sim report FOLDER [out=FOLDER/report.html] [validation=FOLDER]

FOLDER is the output folder of a run or a sweep. The file needs no network: send it, archive it, open it anywhere.

  out=FILE            where to write it (default: report.html in FOLDER)
  validation=FOLDER   what `python -m sim validate` wrote, for the section on measured beside predicted times

Examples
  python -m sim run -m policy=lru,importance,belady what_if=true sweep.name=first
  python -m sim report outputs/sweep/first
"""

from __future__ import annotations

from pathlib import Path

from sim.command_words import read_words

WORDS = {"out": "FILE", "validation": "FOLDER"}


def main(argv: list[str]) -> int:
    """Write the report -> 0. Raises: UserError for unknown words, and for folders without results."""
    word, pairs = read_words("report", argv, WORDS)
    folder, options = Path(word), {name: Path(value) for name, value in pairs}
    from sim.report.content import content
    from sim.report.render import render
    from traces.whole_file import write_whole

    out = options.get("out", folder / "report.html")
    page = render(content(folder, options.get("validation")))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())
    print(f"wrote {out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0
