"""Prints quality against SMoE's alpha over training seeds: python -m scripts.studies.quality.alpha

SMoE (its Table IV) reports benchmark scores for alpha 0 ... 0.6 without intervals. Here: its rules (score bands, score
window, two-pointer CPU; no prefetch, so that one pass decides as decoding does) inside the demo model of three training
seeds at a quarter of the experts; perplexity, KL, next-token accuracy and a multiple-choice cloze, with what happens if
the same experts are dropped, replaced at random, or replaced with the replaced expert's weight. That alpha counts as
harmless whose whole interval of the change of perplexity lies below a margin fixed beforehand: +1 %.
Quality MEASURED, times SIMULATED. Ten to fifteen minutes on two cores; a second call goes on where the first ended.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.substitution.score_band import ScoreBand
from scripts.command_line import print_table, run
from scripts.studies.quality.bench import QUALITY, STATISTICS, Bench, Case, with_interval
from scripts.studies.quality.study import Row, arguments, bench_of, bounds, panels, plot_band, read_rows, write_results
from sim.assembly.catalogue import load_policy
from sim.figures.style import LINES
from sim.live.weights import INHERIT
from sim.quality.cloze import cloze_item, log_likelihood
from sim.quality.drive import DROP, RANDOM
from sim.quality.intervals import DRAWS
from sim.quality.loop import Variant
from sim.quality.parallel import parallel, plain_logits
from sim.quality.settings import ClozeConfig
from sim.statistics.bootstrap import estimate, ratio

ALPHAS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
MARGIN = 0.01
CLOZE = ClozeConfig(items=24, choices=4, context_tokens=96, continuation_tokens=16)
VARIANTS = {
    "replaced": Variant("policy"),
    "replaced, inherited weights": Variant("inherit_weights", scheme=INHERIT),
    "dropped": Variant("drop", DROP),
    "random": Variant("random", RANDOM),
}


def smoe(alpha: float) -> Policy:
    """SMoE's policy with this alpha and without prefetch."""
    base = load_policy("importance")
    return replace(base, substitution=ScoreBand(alpha=alpha), prediction=NoPrediction(), prefetch=NoPrefetch())


def cloze_right(bench: Bench, alpha: float | None, items: int) -> list[float]:
    """1 for every cloze item answered right; alpha None: by the untouched model."""
    key = f"cloze_{bench.seed}_{bench.name.replace(' ', '_')}_{items}_{alpha}"

    def answer() -> dict[str, np.ndarray]:
        study = None if alpha is None else bench.study(smoe(alpha), 0.25)
        right = []
        for item in range(items):
            tokens = cloze_item(bench.windows, item, CLOZE, 0)
            if study is None:
                logits = list(plain_logits(bench.loaded.model, tokens))
            else:
                logits = [choice.logits for choice in parallel(study.loop, tokens, Variant("policy"))]
            scores = [log_likelihood(a, b, CLOZE.context_tokens) for a, b in zip(logits, tokens, strict=True)]
            right.append(float(int(np.argmax(scores)) == 0))
        return {"right": np.array(right)}

    return [float(value) for value in bench.stored(key, answer)["right"]]


def main(argv: list[str]) -> None:
    """Run every alpha on every seed, print the table and the answer, write both and the figure."""
    parser = arguments(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--cloze-items", type=int, default=24, help="0: left out")
    given = parser.parse_args(argv)
    rows: list[Row] = []
    if given.redraw:
        draw(read_rows("quality_alpha", given), given.seeds, given.figures)
        return
    for seed in given.seeds:
        bench = bench_of(given, seed)
        for alpha in tqdm(ALPHAS, unit=" alphas"):
            rows += rows_of(bench, alpha, min(given.cloze_items, given.windows))
    answers = {str(seed): largest_harmless([row for row in rows if row["seed"] == seed]) for seed in given.seeds}
    print_rows(rows, answers)
    write_results("quality_alpha", given, rows, margin=MARGIN, largest_alpha_within_margin=answers)
    draw(rows, given.seeds, given.figures)


def rows_of(bench: Bench, alpha: float, items: int) -> list[Row]:
    """A row for each stand-in at one alpha; where nothing is replaced the first alone.

    Times are those of the policy's own pass; ``over_replaced``: the difference from it, paired.
    """
    rows: list[Row] = []
    reference = bench.run(Case("smoe", alpha, smoe(alpha), bench.seed, 0.25, VARIANTS["replaced"]))
    for name, variant in VARIANTS.items():
        row: Row = {"seed": bench.seed, "alpha": alpha, "stand_in": name}
        if name == "replaced":
            rows.append(row | reference.row(STATISTICS))
            if reference.value("substitution_rate") == 0.0:
                break
        else:
            outcome = bench.run(Case("smoe", alpha, smoe(alpha), bench.seed, 0.25, variant))
            over = outcome.over(reference, ("perplexity_change", "kl"), "over_replaced")
            rows.append(row | outcome.row(QUALITY) | over)
    if items:
        base, right = cloze_right(bench, None, items), cloze_right(bench, alpha, items)
        change = np.array(right) - np.array(base)
        rows[0]["cloze_accuracy"] = float(np.mean(right))
        rows[0] |= with_interval("cloze_change", estimate(np.stack([change, np.ones(items)], axis=1), ratio, DRAWS))
        rows[0]["cloze_items"] = items
    return rows


def largest_harmless(rows: list[Row]) -> float:
    """The largest alpha up to which every alpha's interval of the change of perplexity lies below the margin."""
    best = 0.0
    for row in rows:
        if row["stand_in"] == "replaced":
            if row["perplexity_change.high"] >= MARGIN:
                break
            best = float(row["alpha"])
    return best


def print_rows(rows: list[Row], answers: dict[str, float]) -> None:
    """The table and the answer."""
    cells = (
        {
            "seed": row["seed"], "alpha": row["alpha"], "stand-in": row["stand_in"],
            "perplexity, %": bounds(row, "perplexity_change"), "KL": f"{row['kl']:.4f}",
            "next token, pp": f"{100 * row['accuracy_change']:+.2f}",
            "cloze, pp": f"{100 * row['cloze_change']:+.1f}" if "cloze_change" in row else "",
            "TPOT, ms": f"{1e3 * row['tpot_s']:.2f}" if "tpot_s" in row else "",
        }
        for row in rows
    )  # fmt: skip
    print_table("quality MEASURED in closed loop, times SIMULATED", cells)
    for seed, alpha in answers.items():
        print(f"seed {seed}: the largest alpha within +{100 * MARGIN:g} % perplexity is {alpha:g}")


def draw(rows: list[Row], seeds: list[int], folder: Path) -> None:
    """Change of perplexity against alpha, a panel per seed."""
    note = (
        "Quality MEASURED in the demo model, closed loop, a quarter of the experts; bands: 95 %, bootstrap over "
        "documents. Grey: +1 %."
    )
    best = [f"{largest_harmless([row for row in rows if row['seed'] == seed]):g}" for seed in seeds]
    says = f"The largest alpha whose interval stays below +{100 * MARGIN:g} % perplexity: {', '.join(best)}."
    with panels(folder / "quality_alpha", note, (1, len(seeds)), 2.5, says, sharey=True) as axes:
        for axis, seed in zip(axes[0], seeds, strict=True):
            for line, name in zip(LINES, VARIANTS, strict=False):
                points = [row for row in rows if row["seed"] == seed and row["stand_in"] == name]
                alphas = [row["alpha"] for row in points]
                plot_band(axis, alphas, points, "perplexity_change", 100, 0.12, label=name, **line)
            axis.axhline(100 * MARGIN, color="#888888", linewidth=0.6)
            axis.set_title(f"training seed {seed}", loc="left", fontsize=7)
            axis.set_xlabel("alpha, half width of the score bands")
        axes[0, 0].set_ylabel("Change of perplexity (%)")


if __name__ == "__main__":
    run(main)
