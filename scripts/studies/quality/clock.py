"""Prints quality of importance_plus beside importance, the clock in the loop: python -m scripts.studies.quality.clock

Both policies whole, with their prefetches, inside the demo model of several training seeds: token by token, what is
resident decided by the modelled machine (set-up S1, a quarter of the experts, alpha of the paper, sizes of
DeepSeek-MoE-16B). KL to the untouched model, perplexity, lines of code finished exactly and as the untouched model
would; differences paired by document, 95 %. Within the margin means: KL 10 %, perplexity 1 %, shares of lines 1 point,
fixed beforehand. The windows are those of text seed 1: the rule's measure of harm was chosen on those of seed 0.

Quality MEASURED, times SIMULATED. A minute or two for each policy and seed, and up to 15 minutes of a core to train a
seed's model once. Finished ones are kept under a hash of the code that decides, so the same command goes on where it
ended and measures anew what a later edition of a rule changes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scripts.command_line import print_table, run
from scripts.studies.quality.bench import COUNTED, HARDWARE, Bench, Case, Outcome, column, sums_by, with_interval
from scripts.studies.quality.study import Row, arguments, bench_of, bounds
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup
from sim.engine.decision.counters import COUNTERS
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.machine.runtime import load_runtime
from sim.paths import ROOT
from sim.quality.evaluate import Results, run_study
from sim.quality.intervals import DRAWS
from sim.quality.settings import ClozeConfig, GenerationConfig, LinesConfig, QualityConfig, StudyConfig
from sim.quality.store import Arrays, Store
from sim.quality.study import DEMO_SIZES, POLICY, make_study
from sim.statistics.bootstrap import Statistic, estimate
from sim.statistics.margin import within
from sim.sweep.key import code_version
from traces.whole_file import write_whole

POLICIES = ("importance", "importance_plus")
RUNTIME, FRACTION, TEXT_SEED = "smoe_2026_07", 0.25, 1
KL_MARGIN, MARGIN = 0.10, 0.01
MEASURED = ("kl", "perplexity_change", "tpot_s", "substitution_rate")
LINES = LinesConfig(items=96)


def main(argv: list[str]) -> None:
    """Measure what is not kept, print the table and write it."""
    parser = arguments(__doc__, seeds=(0, 1, 2))
    parser.set_defaults(text_seed=TEXT_SEED)
    given = parser.parse_args(argv)
    rows: list[Row] = []
    for seed in given.seeds:
        rows += rows_of(given, bench_of(given, seed))
        print_rows(rows[-len(POLICIES) :])
    given.results.mkdir(parents=True, exist_ok=True)
    write_whole(given.results / "quality_clock.csv", pd.DataFrame(rows).to_csv(index=False).encode())


def rows_of(given: argparse.Namespace, bench: Bench) -> list[Row]:
    """A row for each policy in the model of one seed; the second with its differences from the first."""
    outcomes, lines = {}, {}
    for name in POLICIES:
        found = bench.stored(key_of(bench, name), lambda name=name: measured(bench, name))  # type: ignore[misc]
        case = Case(name, 0.0, load_policy(name), bench.seed, FRACTION)
        outcomes[name] = Outcome(case, sums_by(bench.documents(), found["windows"]))
        lines[name] = sums_by(found["line_documents"].tolist(), found["lines"])
    rows: list[Row] = []
    for name in POLICIES:
        row: Row = {"seed": bench.seed, "text_seed": given.text_seed, "policy": name, "edition": edition(name)}
        row |= {"windows": given.windows, "tokens": given.tokens, "perplexity": perplexity(outcomes[name])}
        row |= outcomes[name].row(MEASURED) | line_row(lines[name])
        rows.append(row | (over(outcomes, lines) if name != POLICIES[0] else {}))
    return rows


def key_of(bench: Bench, name: str) -> str:
    """Names a measurement by all that decides it."""
    policy = (ROOT / "conf" / "policy" / f"{name}.yaml").read_text(encoding="utf-8")
    facts = f"{code_version()} {policy} {bench.name} {bench.recipe.key} {LINES} {RUNTIME} {FRACTION}"
    return f"clock_{name}_{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def edition(name: str) -> str:
    """What the file of a policy says of its edition, "" where it has none."""
    header = (ROOT / "conf" / "policy" / f"{name}.yaml").read_text(encoding="utf-8")
    found = re.search(r"(\w+) edition", header.partition("\n")[0])
    return found.group(1) if found else ""


def measured(bench: Bench, name: str) -> Arrays:
    """`windows` [N, COLUMNS] and `lines` [items, 4]: exact untouched, exact, as untouched, 1; their documents."""
    machine = Machine(load_hardware(HARDWARE), load_runtime(RUNTIME))
    setup = DeviceSetup(load_policy(name), machine, CacheConfig(fraction=FRACTION, reset="request"))
    quality = QualityConfig(
        windows=bench.settings.windows, tokens=bench.settings.tokens, text_seed=bench.settings.text_seed,
        mode="decode", contrasts=False, per_layer=False, batch_windows=12,
    )  # fmt: skip
    config = StudyConfig(quality, ClozeConfig(items=0), GenerationConfig(windows=0), LINES)
    study = make_study(bench.loaded, setup, config, bench.text, DEMO_SIZES)
    results = run_study(study, Store(None))
    rows = [[item["base"][0], *item[POLICY], 1.0] for item in results.lines]
    return {
        "windows": window_rows(results),
        "lines": np.array(rows, np.float64),
        "line_documents": np.array(study.lines.documents),
    }


def window_rows(results: Results) -> NDArray[np.float64]:
    """[N, COLUMNS] sums of each window, as the other studies have them."""
    rows = []
    for window in results.windows:
        measures, counts = window[POLICY], window["counts"].sum(axis=0)
        counted = [float(counts[COUNTERS.index(name)]) for name in COUNTED]
        latency = window["latency_ns"]
        rows.append([*measures.sum(axis=0).tolist(), len(measures), latency.sum(), len(latency), *counted])
    return np.array(rows, np.float64)


def perplexity(outcome: Outcome) -> float:
    """Of the untouched model."""
    sums = outcome.sums.sum(axis=0)
    return float(np.exp(column(sums, "nll_base") / column(sums, "predictions")))


LINE_STATISTICS: dict[str, Statistic] = {
    "lines_exact_untouched": lambda s: s[..., 0] / s[..., 3],
    "lines_exact_change": lambda s: (s[..., 1] - s[..., 0]) / s[..., 3],
    "lines_same": lambda s: s[..., 2] / s[..., 3],
}


def line_row(sums: NDArray[np.float64]) -> Row:
    """Shares of lines with their intervals, of sums by document."""
    row: Row = {"lines": int(sums[:, 3].sum())}
    for name, statistic in LINE_STATISTICS.items():
        row |= with_interval(name, estimate(sums, statistic, DRAWS))
    low, high = (row[f"lines_exact_change.{end}"] for end in ("low", "high"))
    return row | {"lines_exact_change.within": within(low, high, MARGIN)}


def over(outcomes: dict[str, Outcome], lines: dict[str, NDArray[np.float64]]) -> Row:
    """Of the second policy beside the first: KL, perplexity and TPOT relative, shares of lines as differences."""
    first, second = (outcomes[name].sums for name in POLICIES)
    both, width = np.concatenate([second, first], axis=1), first.shape[1]

    def relative(name: str) -> Statistic:
        return lambda s: column(s[..., :width], name) / column(s[..., width:], name) - 1

    def nll(s: Any) -> Any:
        apart = column(s[..., :width], "nll") - column(s[..., width:], "nll")
        return np.expm1(apart / column(s[..., :width], "predictions"))

    row: Row = {}
    for name, statistic, margin in (
        ("over_importance.kl", relative("kl"), KL_MARGIN),
        ("over_importance.perplexity", nll, MARGIN),
        ("over_importance.tpot", relative("latency_ns"), MARGIN),
    ):
        row |= judged(name, both, statistic, margin)
    pairs = np.concatenate([lines[name] for name in reversed(POLICIES)], axis=1)
    for name, place in (("lines_exact", 1), ("lines_same", 2)):
        row |= judged(f"over_importance.{name}", pairs, gap_at(place), MARGIN)
    return row


def gap_at(place: int) -> Statistic:
    """Difference of two shares of lines, of sums [..., 8]."""
    return lambda sums: (sums[..., place] - sums[..., 4 + place]) / sums[..., 3]


def judged(name: str, sums: NDArray[np.float64], statistic: Statistic, margin: float) -> Row:
    """A difference with its interval and whether it lies within the margin."""
    row: Row = with_interval(name, estimate(sums, statistic, DRAWS))
    return row | {f"{name}.within": within(row[f"{name}.low"], row[f"{name}.high"], margin)}


def print_rows(rows: list[Row]) -> None:
    """The table of one seed, and the differences."""
    cells = (
        {
            "policy": row["policy"], "edition": row["edition"], "KL, nats": bounds(row, "kl", 1.0, 4),
            "perplexity, %": bounds(row, "perplexity_change"), "TPOT, ms": f"{1e3 * row['tpot_s']:.2f}",
            "lines exact, pp": bounds(row, "lines_exact_change", digits=1),
            "as untouched, %": bounds(row, "lines_same", digits=0),
        }
        for row in rows
    )  # fmt: skip
    untouched = f"untouched: perplexity {rows[0]['perplexity']:.1f}, {100 * rows[0]['lines_exact_untouched']:.0f} % of "
    print_table(f"training seed {rows[0]['seed']}; {untouched}{rows[0]['lines']} lines exact", cells)
    for name in ("kl", "perplexity", "tpot", "lines_exact", "lines_same"):
        label = f"over_importance.{name}"
        print(f"{POLICIES[1]} over {POLICIES[0]}, {name}: {bounds(rows[1], label, digits=1)} %, "
              f"within the margin: {rows[1][f'{label}.within']}")  # fmt: skip


if __name__ == "__main__":
    run(main)
