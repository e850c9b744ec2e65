"""Turn the output folder of a run or a sweep, a trace or a validation into figures and a table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sim.command_words import machines_of, read_words
from sim.terminal import next_commands
from traces.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from sim.figures.asked import Asked
    from sim.metrics.registry import Column

WORDS = {
    "figure": "NAME", "columns": "1|2", "steps": "FIRST-LAST", "machines": "N", "out": "FOLDER", "policies": "A,B",
    "order": "A,B", "names": "A:NAME", "limits": "AXIS:LOW:HIGH", "size": "WIDTHxHEIGHT", "style": "FILE",
    "notes": "true|false",
}  # fmt: skip
USAGE = """usage: python -m sim plot WHAT [figure=NAME ...] [columns=1|2] [policies=A,B] [out=FOLDER]

Turn the output folder of a run or a sweep, a trace or a validation into figures and a table.

WHAT is what `python -m sim run` printed as its output folder (every run in it or below it counts), a trace file or the
name of an embedded trace, or a folder with validation.csv, where_it_pays.csv or four_systems.csv.
"""
OPTIONS = """
  (without figure= all that WHAT gives are drawn; give figure= more than once, or names with commas, for several)
  steps=40-42         the steps that figure=timeline shows (without: two, the first of median length)
  columns=2           as wide as two columns of a paper page (7 in); columns=1: one column (3.35 in)
  policies=lru,dali   only these, also in the printed table: a name selects the series of just this name (dali as it is,
                      not `dali eviction=x`); where there is none, all runs of this policy; else of this rule's file
  order=A,B           these first; names=importance:SMoE,lru:LRU
  limits=tpot_s.mean:0:40,capacity:10:50   ends of the axes that show these columns, in the unit of the axis
  size=3.35x2.2       inches, to which the words below are added (notes=false: none)
  style=FILE.mplstyle  a style file of matplotlib over the package's own style
  notes=false         no words under the figures, which are printed in any case: for a paper with its own captions
  machines=N          plausible machines that runs are replayed on for intervals; 0: intervals over requests alone
  out=FOLDER/figures  where the PDF, PNG and SVG files go (for a trace: figures/NAME)

Examples
  python -m sim run -m policy=lru,importance,belady cache.fraction=0.1,0.25,0.5
  python -m sim plot outputs/sweep/2026-01-31_12-00-00
  python -m sim plot outputs/sweep/2026-01-31_12-00-00 figure=capacity columns=1 out=paper/figures
  python -m sim plot outputs/sweep/mine policies=lru,importance names=importance:SMoE notes=false
  python -m sim plot demo figure=score_by_rank,routing
"""


def help_text() -> str:
    """What `python -m sim plot --help` prints: every figure with one line."""
    from sim.figures.registry import FIGURES

    lines = [USAGE]
    for source in dict.fromkeys(drawing.source for drawing in FIGURES.values()):
        drawings = [drawing for drawing in FIGURES.values() if drawing.source == source]
        lines += [f"Figures from {source}", *(f"  figure={each.name:<22} {each.says}" for each in drawings), ""]
    return "\n".join(lines[:-1]) + "\n" + OPTIONS


def main(argv: list[str]) -> int:
    """Draw what the arguments ask for; 0 when all was written.

    Raises: UserError for an unknown word or figure, and for folders without what a figure shows.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text(), end="")
        return 0 if argv else 2
    what, names, columns, out, steps, asked = _arguments(argv)
    default = out is None
    out = _default_folder(what) if out is None else out
    machines = machines_of(dict(word.split("=", 1) for word in argv if "=" in word))
    from sim.figures.drawing import RUNS
    from sim.figures.registry import figures_of, save, sources_of  # pandas and matplotlib take a second to import
    from sim.figures.run_table import study
    from sim.figures.style import said_of
    from sim.results.run_files import unfinished_runs
    from sim.run.plausible import replay_on_plausible_machines
    from traces.whole_file import check_folder

    check_folder(out)
    runs = None
    if RUNS in sources_of(what):
        asked.chosen(study(what))  # refuses what cannot be read before anything is replayed
        for note in replay_on_plausible_machines(what, machines):
            print(f"note: {note}", file=sys.stderr)
        runs = study(what, of_machines=machines != 0)
        for run in unfinished_runs(what):
            print(f"warning: the run in {run} left no results and is not shown", file=sys.stderr)
        print(format_table(asked.chosen(runs)))
    elif not what.exists() and not sources_of(what):
        raise UserError(f"{what} is no folder, no trace and no validation: see `python -m sim plot --help`")
    written = 0
    for name, figure in figures_of(what, names, columns, runs, asked, steps=steps):
        paths = save(figure, out / name, inside=what if default and what.is_dir() else None, style=asked.style)
        print(f"wrote {', '.join([str(paths[0]), *(path.suffix for path in paths[1:])])}")
        if conclusion := said_of(figure).conclusion:
            print(f"  {conclusion}")
        written += 1
    if not written:
        print(f"no figure can be drawn of {what} alone: figure=NAME says what it lacks", file=sys.stderr)
    elif runs is not None:
        print(next_commands(["report", what]))
    return 0


def shown_columns(batch_sizes: "Iterable[int]", rate: str = "tokens/s") -> "list[Column]":
    """The columns of the table of all runs; in batches the time of a decode step comes before TPOT.

    `rate`: the heading of tokens per second.
    """
    from sim.metrics.registry import Column, column_of, decode_time

    tpot, first = column_of("tpot_s.mean"), decode_time(batch_sizes)
    return [
        Column("capacity", "capacity %", 100.0, ".1f"),
        column_of("decode.hit_rate", "hit %, decode"),
        column_of("decode.cache_ratio", "cache ratio %, decode"),
        column_of("bytes_per_token", "MB/token, all"),
        *([] if first == "tpot_s.mean" else [column_of(first)]),
        tpot,
        Column("tpot_s.low", "95 % low", tpot.scale, tpot.form),
        Column("tpot_s.high", "95 % high", tpot.scale, tpot.form),
        Column("tokens_per_s", rate, 1.0, ".2f"),
        column_of("tpot_s.p99", "P99 ms"),
        column_of("ttft_s.mean"),
    ]


def format_table(table: "pd.DataFrame") -> str:
    """The runs as aligned text, a line each, equal ones once; a dash where a number is not known."""
    from sim.figures.notes import marked, other_bars
    from sim.formatting import number
    from sim.results.table import layers_of, rate_heading, tokens_per_s

    columns = shown_columns(table["batch_size"], rate_heading(table))
    table = marked(table.assign(tokens_per_s=tokens_per_s(table)), "series")
    lines = [["policy", *(column.heading for column in columns)]]
    for _, run in table.drop_duplicates(["series", "capacity", "hit_rate", "tpot_s.mean"]).iterrows():
        cells = [number(run.get(column.name), column.form, column.scale) for column in columns]
        lines.append([str(run["series"]), *cells])
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    form = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in others)])
    return "\n".join(
        [
            " ".join(["times SIMULATED,", layers_of(table)]).rstrip(" ,"),
            *(form.format(*line) for line in lines),
            *filter(None, [other_bars(table).strip()]),
        ]
    )


def _default_folder(what: Path) -> Path:
    """Where figures go unless told otherwise: beside what they show."""
    from sim.figures.trace_file import is_trace

    if is_trace(what):
        return Path("figures") / what.stem
    return (what if what.is_dir() else what.parent) / "figures"


def _arguments(argv: list[str]) -> "tuple[Path, list[str], int, Path | None, tuple[int, int] | None, Asked]":
    """The folder, the figures, the page width in columns, where to write if told, the steps of a timeline, wishes."""
    from sim.figures.asked import Asked, read_limits, read_names, read_size, read_style
    from sim.figures.registry import check_name

    word, pairs = read_words("plot", argv, WORDS, "folder or trace")
    options = dict(pairs)
    names = [name for key, value in pairs if key == "figure" for name in value.split(",")]
    for name in names:
        check_name(name)
    if options.get("columns", "2") not in ("1", "2"):
        raise UserError(f"columns={options['columns']}: 1 or 2 columns of a page are allowed")
    if options.get("notes", "true") not in ("true", "false"):
        raise UserError(f"notes={options['notes']}: must be true or false")
    lists = {key: tuple(filter(None, options.get(key, "").split(","))) for key in ("policies", "order")}
    asked = Asked(
        policies=lists["policies"],
        order=lists["order"] or lists["policies"],
        names=read_names(options["names"]) if "names" in options else {},
        limits=read_limits(options["limits"]) if "limits" in options else {},
        size_in=read_size(options["size"]) if "size" in options else None,
        style=read_style(Path(options["style"])) if "style" in options else {},
        notes=options.get("notes", "true") == "true",
    )
    out = Path(options["out"]) if "out" in options else None
    return Path(word), names, int(options.get("columns", "2")), out, _steps(options.get("steps")), asked


def _steps(words: str | None) -> tuple[int, int] | None:
    """First and last step of "40-42" or "40"."""
    if words is None:
        return None
    first, _, last = words.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise UserError(f"steps={words}: must be a step, or the first and the last one as in steps=40-42")
    return int(first), int(last or first)
