"""Prints TPOT beside quality for every substitution rule: python -m scripts.studies.quality.pareto

Every substitution rule over its knob, on LRU offloading over the link alone, inside the demo model at three capacities:
TPOT and cache ratio against perplexity, and which settings no other beats in both. Quality is MEASURED in closed loop,
times are SIMULATED. Ten to fifteen minutes on two cores; finished cases are kept, so a second call goes on.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from scripts.command_line import print_table, run
from scripts.studies.quality.bench import STATISTICS, Case, Outcome
from scripts.studies.quality.rules import RULES, lru_with
from scripts.studies.quality.study import (
    RULE_LOOKS,
    TIME_LABEL,
    Row,
    arguments,
    bench_of,
    bounds,
    panels,
    read_rows,
    write_results,
)

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
    if given.redraw:
        draw(read_rows("quality_pareto", given), given.fractions, given.figures)
        return
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
    note = (
        "Quality MEASURED in the demo model, closed loop; times SIMULATED with the sizes of DeepSeek-MoE-16B, LRU over "
        "the link alone. Grey: +1 %. A point per setting of a rule's knob."
    )
    says = unbeaten(rows)
    with panels(folder / "quality_pareto", note, (2, len(fractions)), 4.2, says, sharex="col") as axes:
        for axis, fraction in zip(axes.T, fractions, strict=True):
            for rule, label in SHOWN.items():
                line = RULE_LOOKS[rule]
                points = sorted(
                    (1e3 * row["tpot_s"], row["kl"], 100 * row["perplexity_change"])
                    for row in rows
                    if row["rule"] == rule and row["fraction"] == fraction
                )
                times, kl, change = zip(*points, strict=True)
                axis[0].plot(times, kl, label=label, **line)
                axis[1].plot(times, change, label=label, **line)
            axis[0].set_title(f"{100 * fraction:g}\u00a0% of the experts fit", loc="left", fontsize=7)
            axis[1].set_xlabel(TIME_LABEL)
            axis[1].axhline(1.0, color="#888888", linewidth=0.6)
        axes[0, 0].set_ylabel("KL divergence from the\nuntouched model (nats)")
        axes[1, 0].set_ylabel("Change of perplexity (%)")


def unbeaten(rows: list[Row]) -> str:
    """Which rule has most of the settings that no other beats in both time and KL."""
    front = Counter(row["rule"] for row in rows if row["on_front.kl"] and row["rule"] in SHOWN)
    if not front:
        return ""
    (rule, count), *_ = front.most_common(1)
    return f"Of {front.total()} settings that none beats in both time and KL divergence, {count} are of {SHOWN[rule]}."


if __name__ == "__main__":
    run(main)
