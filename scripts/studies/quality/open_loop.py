"""Prints the error of open-loop replay against closed loop: python -m scripts.studies.quality.open_loop

A policy replayed over the routing that the untouched model would have had (open loop), and the same policy inside the
model, where every replaced expert changes what is routed later (closed loop): hit rate, substitutions and TPOT by
position in the context, with the difference and its paired interval over documents. Policies that prefetch run token by
token with the clock in the loop, over fewer windows. Routing MEASURED in the demo model, times SIMULATED.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.state import DECODE
from scripts.command_line import print_table, run
from scripts.studies.quality.bench import Bench, Case, sums_by, with_interval
from scripts.studies.quality.rules import RULES, lru_with
from scripts.studies.quality.study import Row, arguments, bench_of, bounds, panels, plot_band, read_rows, write_results
from sim.assembly.catalogue import load_policy
from sim.engine.decision.counters import COUNTERS
from sim.engine.interface import StepResults
from sim.figures.style import LINES
from sim.quality.decode import decode
from sim.quality.intervals import DRAWS
from sim.quality.loop import Variant
from sim.quality.parallel import parallel, untouched_routing
from sim.statistics.bootstrap import difference, estimate

BIN = 32
COUNTS = ("hits", "demanded", "substituted_ranks", "routed_ranks", "resident_executed", "executed")
RATES = {"hit_rate": (0, 1), "substitution_rate": (2, 3), "cache_ratio": (4, 5), "tpot_s": (6, 7)}
"""Measure -> columns of ``sums`` whose ratio it is."""
SHOWN = {
    "hit_rate": ("hit rate, points", 100.0),
    "substitution_rate": ("substitutions, points", 100.0),
    "tpot_s": ("TPOT, ms", 1e3),
}


def policies() -> dict[str, Policy]:
    """What is compared: SMoE whole and without prefetch, and two rules on LRU."""
    smoe = load_policy("importance")
    return {
        "importance, no prefetch": replace(smoe, prediction=NoPrediction(), prefetch=NoPrefetch()),
        "cache_prior 0.2": lru_with(RULES["cache_prior"].of(0.2)),
        "importance_plus 0.08": lru_with(RULES["importance_plus"].of(0.08)),
        "importance": smoe,
    }


def sums_of(timing: StepResults) -> NDArray[np.float64]:
    """[S / BIN, 8] sums over bins of positions: COUNTS, seconds, steps."""
    counts = timing.counts[:, [COUNTERS.index(name) for name in COUNTS]].astype(np.float64)
    rows = np.column_stack([counts, timing.latency_ns / 1e9, np.ones(len(counts))])
    return np.add.reduceat(rows, np.arange(0, len(rows), BIN), axis=0)


def both_loops(bench: Bench, name: str, policy: Policy, fraction: float, count: int) -> NDArray[np.float64]:
    """[2, count, bins, 8]: open and closed loop, window by window."""

    def replay() -> dict[str, NDArray[np.float64]]:
        study, both = bench.study(policy, fraction), []
        for number, window in enumerate(bench.windows.tokens[:count]):
            (arrays,) = untouched_routing(study.loop, window[None])
            study.loop.clock.reset()
            recorded = study.loop.clock.replay(arrays.all(), DECODE, number)
            if study.parallel:
                (live,) = parallel(study.loop, window[None], Variant("policy"), number)
            else:
                live = decode(study.loop, window, Variant("policy"), number)
            assert live.timing is not None
            both.append((sums_of(recorded), sums_of(live.timing)))
        return {"sums": np.array(both).swapaxes(0, 1)}

    key = f"open_loop_{count}_{Case(name, 0.0, policy, bench.seed, fraction).key(bench.name)}"
    return np.asarray(bench.stored(key, replay)["sums"])


def main(argv: list[str]) -> None:
    """Run every policy both ways, print the differences, write them and their figure."""
    parser = arguments(__doc__)
    parser.add_argument("--fraction", type=float, default=0.25, help="capacity (default 0.25)")
    parser.add_argument("--decode-windows", type=int, default=6, help="for policies that prefetch (default 6)")
    given = parser.parse_args(argv)
    if given.redraw:
        draw(read_rows("quality_open_loop", given), given.figures)
        return
    rows: list[Row] = []
    bench = bench_of(given, given.seeds[0])
    for name, policy in tqdm(policies().items(), unit=" policies"):
        count = given.windows if isinstance(policy.prefetch, NoPrefetch) else min(given.decode_windows, given.windows)
        sums = both_loops(bench, name, policy, given.fraction, count)
        rows += table(name, sums, bench.windows.documents[:count], given.tokens)
    print_rows(rows)
    write_results("quality_open_loop", given, rows, fraction=given.fraction)
    draw(rows, given.figures)


def table(name: str, sums: NDArray[np.float64], documents: Iterable[str], tokens: int) -> list[Row]:
    """A row for each bin of positions, and one for all."""
    blocks = np.stack([sums_by(documents, loop) for loop in sums])  # [2, B, bins, 8]
    rows: list[Row] = []
    for first in [*range(0, tokens, BIN), -1]:
        here = blocks.sum(axis=2) if first < 0 else blocks[:, :, first // BIN]  # [2, B, 8]
        row: Row = {"policy": name, "positions": "all" if first < 0 else f"{first}-{first + BIN - 1}"}
        for measure, (top, bottom) in RATES.items():
            open_, closed = (float(loop[top] / loop[bottom]) for loop in here.sum(axis=1))
            columns = here[[1, 1, 0, 0], :, [top, bottom, top, bottom]].T  # closed minus open
            row |= {f"{measure}.open": open_, f"{measure}.closed": closed}
            row |= with_interval(f"{measure}.difference", estimate(columns, difference, DRAWS))
        rows.append(row)
    return rows


def print_rows(rows: list[Row]) -> None:
    """The table: closed loop, and its difference from open loop."""
    print_table(
        "closed loop: closed minus open loop; routing MEASURED, times SIMULATED",
        (
            {"policy": row["policy"], "positions": row["positions"]}
            | {
                title: f"{scale * row[f'{measure}.closed']:.2f}: {bounds(row, f'{measure}.difference', scale)}"
                for measure, (title, scale) in SHOWN.items()
            }
            for row in rows
        ),
    )


def draw(rows: list[Row], folder: Path) -> None:
    """Differences by position in the context."""
    note = (
        "Closed loop (a replaced expert changes later routing) minus open loop (recorded routing). Demo model, a "
        "quarter of the experts; routing MEASURED, times SIMULATED; bands: 95 %, bootstrap over documents."
    )
    with panels(folder / "quality_open_loop", note, (1, 3), 2.3, largest(rows)) as axes:
        for axis, (measure, (title, scale)) in zip(axes[0], SHOWN.items(), strict=True):
            for line, name in zip(LINES, dict.fromkeys(row["policy"] for row in rows), strict=False):
                points = [row for row in rows if row["policy"] == name and row["positions"] != "all"]
                places = [int(row["positions"].split("-")[0]) + BIN / 2 for row in points]
                plot_band(axis, places, points, f"{measure}.difference", scale, 0.1, label=name, **line)
            axis.axhline(0.0, color="#888888", linewidth=0.6)
            axis.set_xlabel("Position in the context (tokens)")
            axis.set_ylabel(f"Difference of\n{title.replace(', ', ' (')})")


def largest(rows: list[Row]) -> str:
    """The largest differences over whole contexts."""
    whole = [row for row in rows if row["positions"] == "all"]
    found = [
        f"{max(abs(scale * row[f'{measure}.difference']) for row in whole):.2g} {title.partition(', ')[2]} of "
        f"{title.partition(',')[0]}"
        for measure, (title, scale) in SHOWN.items()
    ]
    return f"Over whole contexts the two differ by at most {', '.join(found)}." if whole else ""


if __name__ == "__main__":
    run(main)
