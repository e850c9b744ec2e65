"""How wrong open loop is: python -m scripts.studies.quality.open_loop

A policy replayed over the routing that the untouched model would have had (open loop), and the same policy inside the
model, where every replaced expert changes what is routed later (closed loop): hit rate, substitutions and TPOT by
position in the context, with the difference and its paired interval over documents. Policies that prefetch run token by
token with the clock in the loop, over fewer windows. Routing MEASURED in the demo model, times SIMULATED.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.state import DECODE
from scripts.studies.quality.bench import (
    Bench,
    Case,
    arguments,
    bench_of,
    draws_of,
    interval,
    save_figure,
    write_results,
)
from scripts.studies.quality.rules import RULES, lru_with
from sim.assembly.catalogue import load_policy
from sim.engine.decision.counters import COUNTERS
from sim.figures.style import LINES, STYLE, WIDTH_IN, add_footnote
from sim.quality.decode import decode
from sim.quality.live import Timing
from sim.quality.loop import Variant
from sim.quality.parallel import parallel, untouched_routing

BIN = 32
COUNTS = ("hits", "demanded", "substituted_ranks", "routed_ranks", "resident_executed", "executed")
RATES = {"hit_rate": (0, 1), "substitution_rate": (2, 3), "cache_ratio": (4, 5), "tpot_s": (6, 7)}
"""Measure -> columns of ``sums`` whose ratio it is."""


def policies() -> dict[str, Policy]:
    """What is compared: SMoE whole and without prefetch, and two rules on LRU."""
    smoe = load_policy("importance")
    return {
        "importance, no prefetch": replace(smoe, prediction=NoPrediction(), prefetch=NoPrefetch()),
        "cache_prior 0.2": lru_with(RULES["cache_prior"][1](0.2)),
        "importance_plus 0.08": lru_with(RULES["importance_plus"][1](0.08)),
        "importance": smoe,
    }


def sums_of(timing: Timing) -> NDArray[np.float64]:
    """[S / BIN, 8] sums over bins of positions: COUNTS, seconds, steps."""
    counts = timing.counts[:, [COUNTERS.index(name) for name in COUNTS]].astype(np.float64)
    rows = np.column_stack([counts, timing.latency_ns / 1e9, np.ones(len(counts))])
    return np.add.reduceat(rows, np.arange(0, len(rows), BIN), axis=0)


def run(bench: Bench, name: str, policy: Policy, fraction: float, count: int) -> NDArray[np.float64]:
    """[2, count, bins, 8]: open and closed loop, window by window."""
    key = f"open_loop_{count}_{Case(name, 0.0, policy, bench.seed, fraction).key(bench.name)}"
    found = bench.store.get(key)
    if found is None:
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
        found = {"sums": np.array(both).swapaxes(0, 1)}
        bench.store.put(key, found)
    return np.asarray(found["sums"])


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--fraction", type=float, default=0.25, help="capacity (default 0.25)")
    parser.add_argument("--decode-windows", type=int, default=6, help="for policies that prefetch (default 6)")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    bench = bench_of(given, given.seeds[0])
    for name, policy in tqdm(policies().items(), unit=" policies"):
        count = given.windows if isinstance(policy.prefetch, NoPrefetch) else min(given.decode_windows, given.windows)
        sums = run(bench, name, policy, given.fraction, count)
        rows += table(name, sums, bench.windows.documents[:count], given.tokens)
    print_rows(rows)
    write_results(given.results / "quality_open_loop.json", given, rows, fraction=given.fraction)
    draw(rows, given.figures)


def table(name: str, sums: NDArray[np.float64], documents: tuple[str, ...], tokens: int) -> list[dict[str, Any]]:
    """A row for each bin of positions, and one for all."""
    _, index = np.unique(np.array(documents), return_inverse=True)
    blocks = np.zeros((2, index.max() + 1, *sums.shape[2:]))  # [2, B, bins, 8]
    for loop in range(2):
        np.add.at(blocks[loop], index, sums[loop])
    draws, rows = draws_of(blocks.shape[1]), []
    for first in [*range(0, tokens, BIN), -1]:
        here = blocks.sum(axis=2) if first < 0 else blocks[:, :, first // BIN]  # [2, B, 8]
        row: dict[str, Any] = {"policy": name, "positions": "all" if first < 0 else f"{first}-{first + BIN - 1}"}
        for measure, (top, bottom) in RATES.items():
            whole, drawn = here.sum(axis=1), np.einsum("db,lbc->ldc", draws, here)
            open_, closed = (float(one[top] / one[bottom]) for one in whole)
            spread = drawn[1, :, top] / drawn[1, :, bottom] - drawn[0, :, top] / drawn[0, :, bottom]
            low, high = interval(spread)
            row |= {f"{measure}.open": open_, f"{measure}.closed": closed, f"{measure}.difference": closed - open_}
            row |= {f"{measure}.difference.low": low, f"{measure}.difference.high": high}
        rows.append(row)
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table: closed minus open."""
    print("closed loop minus open loop; routing MEASURED, times SIMULATED")
    print(f"{'policy':<26}{'positions':<11}{'hit rate, points':>30}{'substituted, points':>30}{'TPOT, ms':>34}")
    for row in rows:
        cells = [_cell(row, measure, scale) for measure, scale in (("hit_rate", 100), ("substitution_rate", 100))]
        print(f"{row['policy']:<26}{row['positions']:<11}{cells[0]:>30}{cells[1]:>30}{_cell(row, 'tpot_s', 1e3):>34}")


def _cell(row: dict[str, Any], measure: str, scale: float) -> str:
    low, high = (scale * row[f"{measure}.difference.{end}"] for end in ("low", "high"))
    value = scale * row[f"{measure}.closed"]
    return f"{value:.2f}: {scale * row[f'{measure}.difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def draw(rows: list[dict[str, Any]], folder: Any) -> None:
    """Differences by position in the context."""
    panels = {
        "hit_rate": ("hit rate, points", 100.0),
        "substitution_rate": ("substituted, points", 100.0),
        "tpot_s": ("TPOT, ms", 1e3),
    }
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH_IN[2], 2.3), layout="constrained")
        for axis, (measure, (label, scale)) in zip(axes, panels.items(), strict=True):
            for line, name in zip(LINES, dict.fromkeys(row["policy"] for row in rows), strict=False):
                points = [row for row in rows if row["policy"] == name and row["positions"] != "all"]
                x = np.array([int(row["positions"].split("-")[0]) + BIN / 2 for row in points])
                values = np.array([scale * row[f"{measure}.difference"] for row in points])
                low, high = (
                    np.array([scale * row[f"{measure}.difference.{end}"] for row in points]) for end in ("low", "high")
                )
                axis.plot(x, values, label=name, **line)
                axis.fill_between(x, low, high, color=line["color"], alpha=0.1, linewidth=0)
            axis.axhline(0.0, color="#888888", linewidth=0.6)
            axis.set_xlabel("position in the context, tokens")
            axis.set_title(label)
        axes[0].set_ylabel("closed minus open loop")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        note = "Demo model, a quarter of the experts. Routing MEASURED, TPOT SIMULATED; bands: 95 %, over documents."
        add_footnote(figure, note)
        save_figure(figure, folder, "quality_open_loop")


if __name__ == "__main__":
    main()
