"""SMoE's claim in its own form: quality against alpha, over training seeds: python -m scripts.studies.quality.alpha

SMoE (its Table IV) reports benchmark scores for alpha 0 ... 0.6 without intervals. Here: its rules (score bands, score
window, two-pointer CPU; no prefetch, so that one pass decides as decoding does) inside the demo model of three training
seeds at a quarter of the experts; perplexity, KL, next-token accuracy and a multiple-choice cloze, with what happens if
the same experts are dropped, replaced at random, or replaced with the replaced expert's weight. That alpha counts as
harmless whose whole interval of the change of perplexity lies below a margin fixed beforehand: +1 %.
Quality MEASURED, times SIMULATED. Ten to fifteen minutes on two cores; a second call goes on where the first ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.substitution.score_band import ScoreBand
from scripts.studies.quality.bench import (
    STATISTICS,
    Bench,
    Case,
    Outcome,
    arguments,
    bench_of,
    draws_of,
    interval,
    save_figure,
    write_results,
)
from sim.assembly.catalogue import load_policy
from sim.figures.style import LINES, STYLE, WIDTH_IN, add_footnote
from sim.quality.cloze import cloze_item, log_likelihood
from sim.quality.drive import DROP, RANDOM
from sim.quality.loop import Variant
from sim.quality.parallel import parallel, plain_logits
from sim.quality.settings import ClozeConfig
from sim.quality.weights import INHERIT

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
    found = bench.store.get(key)
    if found is None:
        study = None if alpha is None else bench.study(smoe(alpha), 0.25)
        right = []
        for item in range(items):
            tokens = cloze_item(bench.windows, item, CLOZE, 0)
            if study is None:
                logits = list(plain_logits(bench.loaded.model, tokens))
            else:
                logits = [one.logits for one in parallel(study.loop, tokens, Variant("policy"))]
            scores = [log_likelihood(a, b, CLOZE.context_tokens) for a, b in zip(logits, tokens, strict=True)]
            right.append(float(int(np.argmax(scores)) == 0))
        found = {"right": np.array(right)}
        bench.store.put(key, found)
    return [float(value) for value in found["right"]]


def main() -> None:
    parser = arguments(__doc__ or "", seeds=[0, 1, 2])
    parser.add_argument("--cloze-items", type=int, default=24, help="0: left out")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(given.seeds) * len(ALPHAS), unit=" alphas") as bar:
        for seed in given.seeds:
            bench = bench_of(given, seed)
            for alpha in ALPHAS:
                rows += rows_of(bench, alpha, min(given.cloze_items, given.windows))
                bar.update()
    answers = {str(seed): largest_harmless([row for row in rows if row["seed"] == seed]) for seed in given.seeds}
    print_rows(rows, answers)
    write_results(given.results / "quality_alpha.json", given, rows, margin=MARGIN, largest_alpha_within_margin=answers)
    draw(rows, given.seeds, given.figures)


def rows_of(bench: Bench, alpha: float, items: int) -> list[dict[str, Any]]:
    """A row for each stand-in at one alpha; where nothing is replaced the first alone."""
    rows, reference = [], None
    for name, variant in VARIANTS.items():
        outcome = bench.run(Case("smoe", alpha, smoe(alpha), bench.seed, 0.25, variant))
        reference = reference or outcome
        rows.append({"seed": bench.seed, "alpha": alpha, "stand_in": name} | statistics(outcome, reference))
        if name == "replaced" and outcome.value("substitution_rate") == 0.0:
            break
    if items:
        base, right = cloze_right(bench, None, items), cloze_right(bench, alpha, items)
        change = np.array(right) - np.array(base)
        low, high = interval(draws_of(items) @ change / items)
        rows[0] |= {"cloze_accuracy": float(np.mean(right)), "cloze_change": float(change.mean())}
        rows[0] |= {"cloze_change.low": low, "cloze_change.high": high, "cloze_items": items}
    return rows


def statistics(outcome: Outcome, reference: Outcome) -> dict[str, Any]:
    """Quality of the outcome; times only where they are its own. ``over_replaced``: beside replacing, paired."""
    draws = draws_of(len(outcome.sums))
    row: dict[str, Any] = {}
    own = outcome is reference
    for name in STATISTICS:
        timed = name in ("tpot_s", "cache_ratio", "substitution_rate", "drop_rate", "hit_rate", "bytes_per_token")
        if timed and not own:
            continue
        low, high = interval(outcome.value(name, draws))
        row |= {name: float(outcome.value(name)), f"{name}.low": low, f"{name}.high": high}
    if not own:
        for name in ("perplexity_change", "kl"):
            low, high = interval(outcome.value(name, draws) - reference.value(name, draws))
            row[f"over_replaced.{name}"] = float(outcome.value(name) - reference.value(name))
            row |= {f"over_replaced.{name}.low": low, f"over_replaced.{name}.high": high}
    return row


def largest_harmless(rows: list[dict[str, Any]]) -> float:
    """The largest alpha up to which every alpha's interval of the change of perplexity lies below the margin."""
    best = 0.0
    for row in rows:
        if row["stand_in"] == "replaced":
            if row["perplexity_change.high"] >= MARGIN:
                break
            best = float(row["alpha"])
    return best


def print_rows(rows: list[dict[str, Any]], answers: dict[str, float]) -> None:
    """The table and the answer."""
    print("quality MEASURED in closed loop, times SIMULATED")
    print(f"{'seed':<5}{'alpha':>6}  {'stand-in':<28}{'perplexity':>24}{'KL':>9}{'next token':>12}{'cloze':>8}  TPOT")
    for row in rows:
        change = f"{100 * row['perplexity_change']:+.2f} [{100 * row['perplexity_change.low']:+.2f}, "
        change += f"{100 * row['perplexity_change.high']:+.2f}] %"
        cloze = f"{100 * row['cloze_change']:+.1f} pp" if "cloze_change" in row else ""
        tpot = f"{1e3 * row['tpot_s']:.2f} ms" if "tpot_s" in row else ""
        print(
            f"{row['seed']:<5}{row['alpha']:>6.2f}  {row['stand_in']:<28}{change:>24}{row['kl']:>9.4f}"
            f"{100 * row['accuracy_change']:>+9.2f} pp{cloze:>8}{tpot:>10}"
        )
    for seed, alpha in answers.items():
        print(f"seed {seed}: the largest alpha within +{100 * MARGIN:g} % perplexity is {alpha:g}")


def draw(rows: list[dict[str, Any]], seeds: list[int], folder: Any) -> None:
    """Change of perplexity and KL against alpha, a panel per seed."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(seeds), figsize=(WIDTH_IN[2], 2.5), layout="constrained", sharey=True, squeeze=False
        )
        for axis, seed in zip(axes[0], seeds, strict=True):
            for line, name in zip(LINES, VARIANTS, strict=False):
                points = [row for row in rows if row["seed"] == seed and row["stand_in"] == name]
                alphas = [row["alpha"] for row in points]
                axis.plot(alphas, [100 * row["perplexity_change"] for row in points], label=name, **line)
                axis.fill_between(
                    alphas,
                    [100 * row["perplexity_change.low"] for row in points],
                    [100 * row["perplexity_change.high"] for row in points],
                    color=line["color"], alpha=0.12, linewidth=0,
                )  # fmt: skip
            axis.axhline(100 * MARGIN, color="#888888", linewidth=0.6)
            axis.set_title(f"training seed {seed}")
            axis.set_xlabel("alpha")
        axes[0, 0].set_ylabel("change of perplexity, %\n(MEASURED)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        note = "Demo model, closed loop, a quarter of the experts; bands: 95 %, bootstrap over documents. Grey: +1 %."
        add_footnote(figure, note)
        save_figure(figure, folder, "quality_alpha")


if __name__ == "__main__":
    main()
