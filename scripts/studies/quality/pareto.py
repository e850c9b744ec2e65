"""Prints TPOT beside quality for every substitution rule: python -m scripts.studies.quality.pareto

Every substitution rule over its knob, on LRU offloading over the link alone, inside the demo model at three capacities:
TPOT and cache ratio against perplexity, and which settings no other beats in both. Quality is MEASURED in closed loop,
times are SIMULATED. Ten to fifteen minutes on two cores; finished cases are kept, so a second call goes on.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from scripts.command_line import print_table, run
from scripts.studies.quality.bench import STATISTICS, Case, Outcome
from scripts.studies.quality.rules import RULES, lru_with
from scripts.studies.quality.study import Row, arguments, bench_of, bounds, panels, write_results
from sim.figures.style import LINES

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


def main(argv: list[str]) -> None:
    """Run the cases, print the table, write it and its figure."""
    parser = arguments(__doc__)
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS), help="capacities")
    given = parser.parse_args(argv)
    bench = bench_of(given, given.seeds[0])
    rows: list[Row] = []
    for fraction in given.fractions:
        rows += table([bench.run(case) for case in tqdm(cases_at(bench.seed, fraction), unit=" cases")])
    print_rows(rows)
    write_results("quality_pareto", given, rows)
    draw(rows, given.fractions, given.figures)


def cases_at(seed: int, fraction: float) -> list[Case]:
    """The plain cache and every rule at every value of its knob."""
    plain = Case("lru", 0.0, lru_with(), seed, fraction)
    rules = [(name, value, rule) for name, rule in RULES.items() for value in rule.values]
    return [plain, *(Case(name, value, lru_with(rule.of(value)), seed, fraction) for name, value, rule in rules)]


def table(outcomes: list[Outcome]) -> list[Row]:
    """A row per case of one capacity, with intervals and whether it is on the front."""
    rows: list[Row] = []
    for outcome in outcomes:
        case = outcome.case
        row = {"rule": case.label, "knob": case.knob, "fraction": case.fraction, "seed": case.seed}
        rows.append(row | outcome.row(STATISTICS))
    for quality in ("perplexity_change", "kl"):
        for row in rows:
            row[f"on_front.{quality}"] = not any(
                other["tpot_s"] <= row["tpot_s"] and other[quality] <= row[quality] and other is not row
                for other in rows
            )
    return rows


def print_rows(rows: list[Row]) -> None:
    """The table; * marks the Pareto front of TPOT and perplexity, + that of TPOT and KL."""
    cells = (
        {
            "capacity": f"{row['fraction']:.4g}", "rule": row["rule"], "knob": f"{row['knob']:.3g}",
            "perplexity, %": bounds(row, "perplexity_change"), "KL, nats": f"{row['kl']:.4f}",
            "TPOT, ms": f"{1e3 * row['tpot_s']:.2f}", "cache ratio": f"{row['cache_ratio']:.3f}",
            "front": "*" * row["on_front.perplexity_change"] + "+" * row["on_front.kl"],
        }
        for row in rows
    )  # fmt: skip
    title = "quality MEASURED, times SIMULATED; * on the Pareto front of TPOT and perplexity, + of TPOT and KL"
    print_table(title, cells)


def draw(rows: list[Row], fractions: list[float], folder: Path) -> None:
    """KL and perplexity against TPOT, a panel per capacity."""
    note = "Demo model, closed loop, LRU over the link alone; sizes of DeepSeek-MoE-16B, 6 layers. Grey: +1 %."
    with panels(folder / "quality_pareto", note, (2, len(fractions)), 4.2, sharex="col") as axes:
        for axis, fraction in zip(axes.T, fractions, strict=True):
            for line, (rule, label) in zip(LINES, SHOWN.items(), strict=False):
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


if __name__ == "__main__":
    run(main)
