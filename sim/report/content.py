"""All that a report says, gathered from the folder of runs: texts, rows and pictures, nothing of HTML."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.figures.drawings.validation import how_far_off, note
from sim.figures.measures import add_measures
from sim.figures.notes import values_of
from sim.figures.run_settings import add_settings
from sim.figures.validation_table import errors, read_validation
from sim.formatting import milliseconds, percent, shortlist, with_interval
from sim.plain_yaml import read_plain_yaml
from sim.report.answer import answer, limits
from sim.report.beside import Beside, beside
from sim.report.beside import sentences as beside_sentences
from sim.report.comparison import HITS, Comparison, compare_all, ranking_metric
from sim.report.pictures import Picture, picture, pictures
from sim.report.rows import Heading, Row, grouped, headings, rows
from sim.report.system_runs import SystemRun, system_runs
from sim.results.json_files import read_json
from sim.results.run_files import finished_runs, machine_of, overrides_of, unfinished_runs
from sim.results.series import chosen_baseline, natural
from sim.results.table import collect, layers_of, table_of
from sim.run.plausible import replay_on_plausible_machines, sentences
from traces.errors import UserError
from traces.text import printable, short_name

OWN_SECTION = ("attribution", "what_if")
SHOWN_COMMANDS, SHOWN_NAMES, SHOWN_VALUES = 60, 3, 40
MOST_RUNS = 250
"""Runs that a page shows; more would take minutes to draw and many megabytes."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine: the label of its file, and every figure with its value and source."""

    name: str
    label: str
    figures: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Validation:
    """Predicted beside measured: the scatter, what it says, a row per setting."""

    picture: Picture
    says: str
    rows: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Content:
    """One report."""

    title: str
    labels: tuple[str, ...]
    was_run: tuple[tuple[str, str], ...]
    unfinished: tuple[str, ...]
    sentences: tuple[str, ...]
    beside: tuple[Beside, ...]
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    layers: str
    pictures: Mapping[str, Picture]
    limits: tuple[Mapping[str, str], ...]
    validation: Validation | None
    systems: tuple[SystemRun, ...]
    warnings: tuple[str, ...]
    estimated: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    hardware: tuple[Hardware, ...]
    commands: tuple[str, ...]
    left_out_commands: int

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """The rows by capacity and place."""
        return grouped(self.rows)

    @property
    def policies(self) -> list[tuple[str, str]]:
        """The policies that a reader may choose, with their colours."""
        return sorted({row.policy: row.color for row in self.rows}.items())

    @property
    def places(self) -> list[str]:
        """Machines, workloads and batch sizes that a reader may choose."""
        return sorted({row.place for row in self.rows})

    @property
    def capacities(self) -> list[str]:
        """Capacities that a reader may choose, in percent."""
        return sorted({row.capacity for row in self.rows}, key=float)

    @property
    def notes(self) -> list[str]:
        """What stands under figures of a paper, each sentence once."""
        return list(dict.fromkeys(picture.note for picture in self.pictures.values()))

    @property
    def figures(self) -> list[Picture]:
        """The pictures without a section of their own."""
        return [picture for picture in self.pictures.values() if picture.name not in OWN_SECTION]


def content(
    folder: Path, validation: Path | None = None, machines: int | None = None, baseline: str | None = None
) -> Content:
    """Everything about the runs in a folder; `validation`: a folder or file that `python -m sim validate` wrote;
    `machines`: plausible machines that runs are replayed on, as `sim.run.plausible` says; `baseline`: what every run is
    put beside, as `sim.results.series.chosen_baseline` finds it.

    Raises: UserError where the folder holds no finished run, or a file of one is broken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the output folder of a run or a sweep")
    systems = system_runs(folder)
    own = {one.folder for one in systems}
    runs = [run for run in finished_runs(folder) if run not in own]
    if not runs and not systems:
        raise UserError(f"{folder} holds no results: `python -m sim run` writes metrics.json into its output folder")
    found = pd.DataFrame()
    if runs:  # refuses what cannot be read before replays
        found = table_of(folder, runs, False) if own else collect(folder, with_intervals=False)
    if baseline is not None and runs:
        chosen_baseline(found, baseline)
    unplayed = replay_on_plausible_machines(folder, machines) if runs else ()
    shown, left_out = shortened(found)
    collected = table_of(folder, [Path(run) for run in shown["folder"]]) if runs else pd.DataFrame()
    table = add_measures(add_settings(collected)) if runs else collected
    comparisons = compare_all(table) if runs else []
    pairs = beside(table, baseline) if runs else ()
    provenances = {run: read_json(run / "provenance.json") for run in [*runs, *sorted(own)]}
    commands = commands_of(folder, provenances)
    return Content(
        title=short_name(folder.resolve().name),
        labels=tuple(sorted({*values_of(table, "label"), *(one.label for one in systems)})),
        was_run=tuple(_was_run(table, systems, len(found))),
        unfinished=tuple(_failure(path, folder) for path in unfinished_runs(folder)),
        sentences=(*answer(comparisons), *beside_sentences(pairs, _timed(table)), *_order(comparisons)) if runs else (),
        beside=pairs,
        headings=tuple(headings(table)) if runs else (),
        rows=tuple(rows(table, comparisons)) if runs else (),
        layers=layers_of(table) if runs else "",
        pictures=pictures(table) if runs else {},
        limits=tuple(limits(table)) if runs else (),
        validation=None if validation is None else _validation(validation),
        systems=tuple(systems),
        warnings=(
            *left_out,
            *_warnings(table),
            *dict.fromkeys(note for one in comparisons for note in one.notes),
            *unplayed,
        ),
        estimated=_sentences(table, "estimated"),
        provenance=tuple(_versions(table, list(provenances.values()))),
        hardware=tuple(_hardware(list(provenances.values()))),
        commands=tuple(commands[:SHOWN_COMMANDS]),
        left_out_commands=max(0, len(commands) - SHOWN_COMMANDS),
    )


def _timed(table: pd.DataFrame) -> bool:
    return ranking_metric(table) != HITS


def shortened(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """(the runs that a report shows, what has to be said of the others): at most ``MOST_RUNS``.

    Conditions share the places alike; of each, half go to the best runs, half to the rest at even distances by rank.
    """
    if len(table) <= MOST_RUNS:
        return table, ()
    metric = ranking_metric(table)
    ranked = table.sort_values([metric, "series"], ascending=[metric != HITS, True], kind="stable")
    groups = [rows.index.to_numpy() for _, rows in ranked.groupby("conditions", sort=True)]
    each = max(1, MOST_RUNS // len(groups))
    chosen = np.concatenate([_best_and_spread(group, each) for group in groups])[:MOST_RUNS]
    sentence = (
        f"{len(table):,} runs are more than {MOST_RUNS}: this page shows {len(chosen)}, of each set of conditions the "
        "best and others at even distances by rank; comparisons are among these, `python -m sim gather` takes all"
    )
    return table.loc[np.sort(chosen)], (sentence,)


def _best_and_spread(ranked: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``count`` of some rows, the best first: half of them as they come, then some of the rest, the last among them."""
    if len(ranked) <= count:
        return ranked
    best = -(-count // 2)
    rest = np.linspace(len(ranked) - 1, best, count - best, dtype=np.int64)
    return np.concatenate([ranked[:best], np.sort(ranked[rest])])


def _order(comparisons: Sequence[Comparison]) -> list[str]:
    """How sure the order of the best and its nearest rivals is on plausible machines, and what would turn it."""
    return sentences(comparisons[0].rivals.head(SHOWN_NAMES)) if comparisons else []


def _was_run(table: pd.DataFrame, systems: Sequence[SystemRun], runs: int) -> list[tuple[str, str]]:
    names = {"policies": "contender", "set-ups": "setup", "sizes of": "model", "traces": "trace",
             "workloads": "workload", "runtimes": "runtime", "compared on": "comparison",
             "batch sizes": "batch_size"}  # fmt: skip
    facts = [("runs", str(runs + len(systems)))]
    facts += [("systems", ", ".join(sorted({one.system for one in systems})))] if systems else []
    values = {word: sorted(values_of(table, key), key=natural) for word, key in names.items()}
    facts += [(word, shortlist(found, SHOWN_VALUES)) for word, found in values.items() if found]
    if "capacity" in table:
        shares = sorted(set(table["capacity"]))
        facts.append(("capacities", ", ".join(dict.fromkeys(f"{100 * share:.3g} %" for share in shares))))
        blocks = sorted({int(count) for count in table["requests"]})
        facts.append(("requests or lockstep batches drawn for intervals", ", ".join(map(str, blocks))))
    return facts


def _failure(path: Path, folder: Path) -> str:
    """What is known of a run that failed or was cut short."""
    if path.is_file():
        try:
            record = read_json(path)
            return printable(f"{' '.join(record['overrides'])}: {record['error']}")
        except (UserError, KeyError, TypeError):
            pass
    return f"{path.relative_to(folder)} left no results"


def _sentences(table: pd.DataFrame, column: str) -> tuple[str, ...]:
    if column not in table:
        return ()
    return tuple(dict.fromkeys(str(sentence) for one in table[column] for sentence in one))


def _warnings(table: pd.DataFrame) -> list[str]:
    """What makes runs fragile, each sentence once, with the runs it is said of."""
    runs_of: dict[str, list[str]] = {}
    numbers_of: dict[str, list[str]] = {}
    for _, run in table.iterrows():
        for sentence in run["warnings"]:
            shape = FIRST_NUMBER.sub("{}", str(sentence), count=1)
            runs_of.setdefault(shape, []).append(f"{run['name']} at {100 * run['capacity']:.3g} %")
            numbers_of.setdefault(shape, []).extend(FIRST_NUMBER.findall(str(sentence))[:1])
    said = {shape: shape.replace("{}", _range(numbers_of[shape]), 1) for shape in runs_of}
    return [f"{said[shape]} ({_which(list(dict.fromkeys(names)), len(table))})" for shape, names in runs_of.items()]


FIRST_NUMBER = re.compile(r"(?<![\w.=])\d+(?:\.\d+)?(?![\w.])")
"""A number that stands alone: sentences that differ in the first one are said once, with its range."""


def _range(numbers: Sequence[str]) -> str:
    low, high = (choose(numbers, key=float) if numbers else "" for choose in (min, max))
    return low if low == high else f"{low} to {high}"


def _which(names: Sequence[str], count: int) -> str:
    return "all runs" if len(names) == count else shortlist(names, SHOWN_NAMES, "; ")


def _validation(path: Path) -> Validation:
    table = read_validation(path)
    rows = []
    for (_, row), error in zip(table.iterrows(), errors(table), strict=True):
        measured, predicted = (
            with_interval(milliseconds(row[f"{side}_s"], ".2f"), row[f"{side}_low"], row[f"{side}_high"], ".2f", 1e3)
            for side in ("measured", "predicted")
        )
        rows.append((str(row["setting"]), measured, predicted, percent(error, "+.1f", " %")))
    return Validation(picture("validation", table), f"{note(table)} {how_far_off(table)}".rstrip(), tuple(rows))


def _versions(table: pd.DataFrame, provenances: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    versions: dict[str, dict[str, None]] = {}
    for one in provenances:
        for package, number in (one.get("versions") or {}).items():
            versions.setdefault(short_name(package), {})[short_name(number)] = None
    hashes = sorted({str(one["trace_hash"]) for one in provenances if one.get("trace_hash")})
    facts = [("trace, sha256", ", ".join(hashes))] if hashes else []
    keys = (("engine", "engine"), ("seed", "seed"), ("code, sha256", "code_version"))
    facts += [(word, ", ".join(values_of(table, key))) for word, key in keys if values_of(table, key)]
    return facts + [(package, ", ".join(numbers)) for package, numbers in versions.items()]


def _hardware(provenances: Sequence[Mapping[str, Any]]) -> list[Hardware]:
    """The machines and then the runtimes by name; of a figure in which runs differ all values."""
    values_of_machines: dict[str, dict[str, dict[str, str]]] = {}
    labels: dict[str, str] = {}
    for hardware in (group for one in provenances for group in machine_of(one)):
        if "name" not in hardware:
            continue
        machine = short_name(hardware["name"])
        labels[machine] = short_name(hardware.get("label"))
        figures = values_of_machines.setdefault(machine, {})
        sources = hardware.get("sources")
        sources = sources if isinstance(sources, dict) else {}
        for name, value in hardware.items():
            if name not in ("name", "label", "sources") and value is not None:
                figures.setdefault(short_name(name), {})[printable(str(value))] = printable(str(sources.get(name, "")))
    return [
        Hardware(name, labels[name], tuple((figure, ", ".join(values), next(iter(values.values())))
                                           for figure, values in figures.items()))
        for name, figures in values_of_machines.items()
    ]  # fmt: skip


def commands_of(folder: Path, provenances: Mapping[Path, dict[str, Any]]) -> list[str]:
    """What to type to get these runs again: the sweep's one command where it is known, else one per run."""
    path = folder / "multirun.yaml"
    if path.is_file():
        task: Any = read_plain_yaml(path, "the sweep's record")
        for name in ("hydra", "overrides", "task"):
            task = task.get(name) if isinstance(task, dict) else None
        if not isinstance(task, list):
            raise UserError(f"the sweep's record {path} holds no list hydra.overrides.task")
        return [_command(["-m", *(str(word) for word in task)])]
    pairs = [overrides_of(run, one) for run, one in provenances.items()]
    return list(dict.fromkeys(_command([f"{key}={value}" for key, value in one.items()]) for one in pairs))


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "sim", "run", *words])
