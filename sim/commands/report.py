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

from traces.errors import UserError

WORDS = ("out", "validation")


def main(argv: list[str]) -> int:
    """Write the report -> 0. Raises: UserError for unknown words, and for folders without results."""
    folder, options = _arguments(argv)
    from sim.report.content import content
    from sim.report.render import render
    from traces.whole_file import write_whole

    out = options.get("out", folder / "report.html")
    page = render(content(folder, options.get("validation")))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode())
    print(f"wrote {out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


def _arguments(argv: list[str]) -> tuple[Path, dict[str, Path]]:
    """The folder, and the paths given by name."""
    pairs = [word.partition("=") for word in argv]
    folders = [word for word, equals, _ in pairs if not equals]
    for key, equals, value in pairs:
        if equals and (key not in WORDS or not value):
            raise UserError(f"report: {key}={value} is not known: the words are out=FILE and validation=FOLDER")
    if len(folders) != 1:
        raise UserError(f"report takes one folder of results, got {len(folders)}: see `python -m sim report --help`")
    return Path(folders[0]), {key: Path(value) for key, equals, value in pairs if equals}
