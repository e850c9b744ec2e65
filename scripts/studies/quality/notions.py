"""Prints which notion of similarity is worth most: python -m scripts.studies.quality.notions

On LRU offloading over the link alone, a quarter of the experts, inside the demo model of three training seeds:
1. Low-score misses at alpha 0.35, replaced by the expert of nearest gate score (SMoE) with its own or the inherited
   weight; on the very ranks that this rule replaces, a random expert or none; and rules of other notions: most similar
   measured output, chosen together. Those replace more, since no band limits their candidates: see their TPOT.
2. At equal quality: the time per token at which one rule's curve reaches the quality of each setting of another, for
   gate bands, measured similarity, random experts, cache-aware re-ranking (cache_prior, max_rank) and importance_plus.
   A rule dominates where the whole interval lies on one side, at every setting and on every seed.
Quality MEASURED in closed loop, times SIMULATED; intervals: paired bootstrap over documents. Ten to fifteen minutes on
two cores; finished cases are kept and shared with quality_pareto.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.command_line import run
from scripts.studies.quality.bench import Bench, Case, Outcome, with_interval
from scripts.studies.quality.pareto import SHOWN
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
from sim.live.weights import INHERIT
from sim.quality.drive import AS_POLICY, DROP, RANDOM
from sim.quality.loop import Variant
from sim.statistics.bootstrap import from_draws

OWN = Variant("policy")
INHERITED = Variant("policy", scheme=INHERIT)
SAME_RANKS = {
    "nearest gate score": ("score_band", 0.35, OWN),
    "nearest gate score, inherited weight": ("score_band", 0.35, INHERITED),
    "random on the same ranks": ("score_band", 0.35, Variant("random", RANDOM)),
    "dropped on the same ranks": ("score_band", 0.35, Variant("drop", DROP)),
    "most similar output": ("similarity", 0.35, OWN),
    "most similar output, inherited weight": ("similarity", 0.35, INHERITED),
    "random": ("random_replacement", 0.35, OWN),
    "random, inherited weight": ("random_replacement", 0.35, INHERITED),
    "dropped, a rule of its own": ("skip", 0.35, OWN),
    "chosen together (one per token)": ("buddy", 1, OWN),
    "chosen together, inherited weight": ("buddy", 1, INHERITED),
}
CURVES = ("score_band", "similarity", "random_replacement", "cache_prior", "max_rank", "importance_plus")
PAIRS = (
    ("importance_plus", "score_band"),
    ("importance_plus", "cache_prior"),
    ("importance_plus", "similarity"),
    ("cache_prior", "score_band"),
    ("similarity", "score_band"),
    ("similarity", "random_replacement"),
    ("random_replacement", "score_band"),
)
TIMED = ("tpot_s", "cache_ratio", "substitution_rate", "drop_rate")
QUALITIES = ("kl", "perplexity_change")


def main(argv: list[str]) -> None:
    """Run both parts on every seed, print their tables, write them and the figure."""
    given = arguments(__doc__, seeds=(0, 1, 2)).parse_args(argv)
    if given.redraw:
        draw(read_rows("quality_notions", given, "curves"), given.figures)
        return
    rows: list[Row] = []
    pairs: list[Row] = []
    points: list[Row] = []
    curves: dict[int, dict[str, list[Outcome]]] = {}
    with tqdm(unit=" cases") as bar:
        for seed in given.seeds:
            bench = bench_of(given, seed)
            rows += same_ranks(bench, bar)
            curves[seed] = curves_of(bench, bar)
            points += points_of(curves[seed], seed)
            for rule, other in PAIRS:
                pairs += equal_quality(curves[seed], rule, other, seed)
    print_same_ranks(rows)
    print_pairs(pairs)
    write_results("quality_notions", given, rows, equal_quality=pairs, curves=points)
    draw(points, given.figures)


def case_of(name: str, value: float, seed: int, variant: Variant = OWN) -> Case:
    """A rule at one value of its knob, at a quarter of the experts."""
    return Case(name, value, lru_with(RULES[name].of(value)), seed, 0.25, variant)


def same_ranks(bench: Bench, bar: Any) -> list[Row]:
    """Part 1 on one seed: a row per notion, with the difference from the nearest gate score."""
    outcomes = {}
    for notion, (rule, value, variant) in SAME_RANKS.items():
        outcomes[notion] = bench.run(case_of(rule, value, bench.seed, variant))
        bar.update()
    first, rows = outcomes["nearest gate score"], []
    for notion, outcome in outcomes.items():
        timed = TIMED if SAME_RANKS[notion][2].stand_in == AS_POLICY else ()
        row = {"seed": bench.seed, "notion": notion} | outcome.row((*QUALITIES, "accuracy_change", *timed))
        rows.append(row | outcome.over(first, QUALITIES, "over_gate_score"))
    return rows


def curves_of(bench: Bench, bar: Any) -> dict[str, list[Outcome]]:
    """Rule -> outcomes over its knob, the plain cache first."""
    plain, curves = bench.run(Case("lru", 0.0, lru_with(), bench.seed)), {}
    for name in CURVES:
        curves[name] = [plain]
        for value in RULES[name].values:
            curves[name].append(bench.run(case_of(name, value, bench.seed)))
            bar.update()
    return curves


def points_of(curves: dict[str, list[Outcome]], seed: int) -> list[Row]:
    """What the figure shows of one seed: a row per setting of every rule."""
    return [
        {"seed": seed, "rule": rule, "knob": outcome.case.knob}
        | {name: outcome.value(name) for name in ("tpot_s", *QUALITIES)}
        for rule, outcomes in curves.items()
        for outcome in outcomes
    ]


def equal_quality(curves: dict[str, list[Outcome]], rule: str, other: str, seed: int) -> list[Row]:
    """Part 2: at the quality of each setting of ``other``, the time of ``rule`` over that of ``other``, less 1.

    Between its settings a rule's curve is taken as straight; settings that ``rule`` does not reach are left out.
    """
    rows: list[Row] = []
    for quality in QUALITIES:
        whole = _rising([[outcome.value(quality), outcome.value("tpot_s")] for outcome in curves[rule]])
        pairs = [np.stack([outcome.drawn(quality), outcome.drawn("tpot_s")], axis=-1) for outcome in curves[rule]]
        drawn = _rising(np.stack(pairs, axis=1))  # [D, settings, 2]
        for outcome in curves[other][1:]:
            at, time = outcome.value(quality), outcome.value("tpot_s")
            if not whole[0, 0] <= at <= whole[-1, 0]:
                continue
            settings = zip(drawn, outcome.drawn(quality), outcome.drawn("tpot_s"), strict=True)
            gains = np.array([_time_at(points, a) / t - 1 for points, a, t in settings])
            found = from_draws(_time_at(whole, at) / time - 1, gains, len(outcome.sums))
            change = with_interval("change", found)
            row = {"seed": seed, "rule": rule, "beside": other, "knob": outcome.case.knob, "quality": quality}
            rows.append(row | {"at": at, "tpot_s": time} | {name.split(".")[-1]: v for name, v in change.items()})
    return rows


def _rising(points: Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [..., settings, 2] of quality and time in rising order of quality."""
    points = np.asarray(points, np.float64)
    order = np.argsort(points[..., 0], axis=-1, kind="stable")
    return np.take_along_axis(points, order[..., None], axis=-2)


def _time_at(points: NDArray[np.float64], quality: float) -> float:
    return float(np.interp(quality, points[:, 0], points[:, 1]))


def print_same_ranks(rows: list[Row]) -> None:
    """Part 1."""
    print("1. low-score misses (alpha 0.35), quality MEASURED, times SIMULATED; differences from the first row")
    print(
        f"{'seed':<5}{'in place of the missing expert':<40}{'perplexity':>12}{'KL':>9}{'KL over first':>28}  TPOT, ms"
    )
    for row in rows:
        over = bounds(row, "over_gate_score.kl", 1.0, 4)
        print(
            f"{row['seed']:<5}{row['notion']:<40}{100 * row['perplexity_change']:>+10.2f} %{row['kl']:>9.4f}{over:>28}"
            + (f"{1e3 * row['tpot_s']:>10.2f}" if "tpot_s" in row else "")
        )


def print_pairs(rows: list[Row]) -> None:
    """Part 2."""
    print("2. change of TPOT at equal quality")
    print(f"{'seed':<5}{'rule':<18}{'beside':<13}{'at its knob':>12}{'equal':>20}{'TPOT':>28}")
    for row in rows:
        change = f"{100 * row['change']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] %"
        print(
            f"{row['seed']:<5}{row['rule']:<18}{row['beside']:<13}{row['knob']:>12.3g}"
            f"{row['quality'].replace('_change', ''):>20}{change:>28}"
        )
    for rule, other in PAIRS:
        for quality in QUALITIES:
            here = [row for row in rows if (row["rule"], row["beside"], row["quality"]) == (rule, other, quality)]
            print(f"{rule} beside {other} at equal {quality.replace('_change', '')}: {verdict(here)}")


def verdict(rows: list[Row]) -> str:
    """Dominance: the whole interval below 0 at every setting of every seed; else how often."""
    below, above = sum(row["high"] < 0 for row in rows), sum(row["low"] > 0 for row in rows)
    changes = [100 * row["change"] for row in rows]
    span = f"{min(changes):+.1f} to {max(changes):+.1f} % TPOT" if rows else "no common quality"
    word = "dominates" if rows and below == len(rows) else "does not dominate everywhere"
    return f"{word}: {span}; faster for sure at {below} of {len(rows)} settings, slower for sure at {above}"


def best_at(points: list[Row]) -> str:
    """How often which rule is fastest where the curves are compared: at the KL divergence of each setting of SMoE's."""
    winners: Counter[str] = Counter()
    for seed in dict.fromkeys(point["seed"] for point in points):
        here = [point for point in points if point["seed"] == seed]
        curves = {rule: _rising([[p["kl"], p["tpot_s"]] for p in here if p["rule"] == rule]) for rule in CURVES}
        for at in (point["kl"] for point in here if point["rule"] == "score_band" and point["kl"] > 0):
            times = {rule: _time_at(curve, at) for rule, curve in curves.items() if at <= curve[-1, 0]}
            winners[min(times, key=times.__getitem__)] += 1
    if not winners:
        return ""
    (rule, count), *_ = winners.most_common(1)
    place = f"in {count} of {winners.total()} settings of the score bands"
    return f"At the KL divergence of SMoE's rule the fastest is {SHOWN[rule]} {place} and training seeds."


def draw(points: list[Row], folder: Path) -> None:
    """Quality against time, a panel per seed."""
    note = (
        "Quality MEASURED in the demo model, closed loop, a quarter of the experts; times SIMULATED with the sizes of "
        "DeepSeek-MoE-16B, LRU over the link alone. Grey: +1 %. A point per setting of a rule's knob."
    )
    seeds, rules = (list(dict.fromkeys(point[name] for point in points)) for name in ("seed", "rule"))
    with panels(folder / "quality_notions", note, (2, len(seeds)), 4.0, best_at(points), sharey="row") as axes:
        for axis, seed in zip(axes.T, seeds, strict=True):
            for rule in rules:
                here = [point for point in points if (point["seed"], point["rule"]) == (seed, rule)]
                times = [1e3 * point["tpot_s"] for point in here]
                axis[0].plot(times, [point["kl"] for point in here], label=SHOWN[rule], **RULE_LOOKS[rule])
                axis[1].plot(times, [100 * point["perplexity_change"] for point in here], **RULE_LOOKS[rule])
            axis[0].set_title(f"training seed {seed}", loc="left", fontsize=7)
            axis[1].set_xlabel(TIME_LABEL)
            axis[1].axhline(1.0, color="#888888", linewidth=0.6)
        axes[0, 0].set_ylabel("KL divergence from the\nuntouched model (nats)")
        axes[1, 0].set_ylabel("Change of perplexity (%)")


if __name__ == "__main__":
    run(main)
