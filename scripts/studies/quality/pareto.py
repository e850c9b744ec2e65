"""What a millisecond costs in quality, rule by rule: python -m scripts.studies.quality.pareto

Every substitution rule over its knob, on LRU offloading over the link alone, inside the demo model at three capacities:
TPOT and cache ratio against perplexity, and which settings no other beats in both. Quality is MEASURED in closed loop,
times are SIMULATED. Ten to fifteen minutes on two cores; finished cases are kept, so a second call goes on.
"""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from tqdm import tqdm

from scripts.studies.quality.bench import (
    STATISTICS,
    Case,
    Outcome,
    arguments,
    bench_of,
    draws_of,
    interval,
    save_figure,
    write_results,
)
from scripts.studies.quality.rules import RULES, lru_with
from sim.figures.style import LINES, STYLE, WIDTH_IN, add_footnote

FRACTIONS = (0.125, 0.25, 0.375)
SHOWN = {
    "score_band": "score band (SMoE)",
    "skip": "same, dropped",
    "similarity": "similarity",
    "cache_prior": "cache prior",
    "max_rank": "max rank",
    "random_replacement": "random",
    "importance_plus": "importance_plus",
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS), help="capacities")
    given = parser.parse_args()
    bench, rows = bench_of(given, given.seeds[0]), []
    cases = [
        Case(name, value, lru_with(rule(value)), given.seeds[0], fraction)
        for fraction in given.fractions
        for name, (_, rule, values) in RULES.items()
        for value in values
    ]
    plain = [Case("lru", 0.0, lru_with(), given.seeds[0], fraction) for fraction in given.fractions]
    outcomes = [bench.run(case) for case in tqdm(plain + cases, unit=" cases")]
    for fraction in given.fractions:
        here = [outcome for outcome in outcomes if outcome.case.fraction == fraction]
        rows += table(here)
    print_rows(rows)
    write_results(given.results / "quality_pareto.json", given, rows)
    draw(rows, given.fractions, given.figures)


def table(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """A row per case of one capacity, with intervals and whether it is on the front."""
    draws, rows = draws_of(len(outcomes[0].sums)), []
    for outcome in outcomes:
        case = outcome.case
        row: dict[str, Any] = {"rule": case.label, "knob": case.knob, "fraction": case.fraction, "seed": case.seed}
        for name in STATISTICS:
            low, high = interval(outcome.value(name, draws))
            row |= {name: float(outcome.value(name)), f"{name}.low": low, f"{name}.high": high}
        rows.append(row)
    for quality in ("perplexity_change", "kl"):
        for row in rows:
            row[f"on_front.{quality}"] = not any(
                other["tpot_s"] <= row["tpot_s"] and other[quality] <= row[quality] and other is not row
                for other in rows
            )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table; * marks the Pareto front of TPOT and perplexity, + that of TPOT and KL."""
    print("quality MEASURED, times SIMULATED; * on the Pareto front of TPOT and perplexity, + of TPOT and KL")
    print(
        f"{'capacity':<10}{'rule':<24}{'knob':>7}{'perplexity':>24}{'KL, nats':>10}{'TPOT, ms':>10}{'cache ratio':>13}"
    )
    for row in rows:
        change = " [".join(f"{100 * row[f'perplexity_change{end}']:+.2f}" for end in ("", ".low"))
        change += f", {100 * row['perplexity_change.high']:+.2f}] %"
        marks = ("*" if row["on_front.perplexity_change"] else " ") + ("+" if row["on_front.kl"] else " ")
        print(
            f"{row['fraction']:<10.4g}{row['rule']:<24}{row['knob']:>7.3g}{change:>24}{row['kl']:>10.4f}"
            f"{1e3 * row['tpot_s']:>10.2f}{row['cache_ratio']:>13.3f} {marks}"
        )


def draw(rows: list[dict[str, Any]], fractions: list[float], folder: Any) -> None:
    """KL and perplexity against TPOT, a panel per capacity."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(fractions), figsize=(WIDTH_IN[2], 4.2), layout="constrained", sharex="col", squeeze=False
        )
        for axis, fraction in zip(axes.T, fractions, strict=True):
            for line, (rule, label) in zip(LINES, SHOWN.items(), strict=True):
                points = sorted(
                    (1e3 * row["tpot_s"], row["kl"], 100 * row["perplexity_change"])
                    for row in rows
                    if row["rule"] == rule and row["fraction"] == fraction
                )
                times, kl, change = zip(*points, strict=True)
                axis[0].plot(times, kl, label=label, **line)
                axis[1].plot(times, change, label=label, **line)
            axis[0].set_title(f"{100 * fraction:g} % of the experts fit")
            axis[1].set_xlabel("TPOT, ms (SIMULATED)")
            axis[1].axhline(1.0, color="#888888", linewidth=0.6)
        axes[0, 0].set_ylabel("KL from the untouched\nmodel, nats (MEASURED)")
        axes[1, 0].set_ylabel("change of perplexity,\n% (MEASURED)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        add_footnote(
            figure, "Demo model, closed loop, LRU over the link alone; sizes of DeepSeek-MoE-16B, 6 layers. Grey: +1 %."
        )
        save_figure(figure, folder, "quality_pareto")


if __name__ == "__main__":
    main()
