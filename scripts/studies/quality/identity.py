"""Prints whether it matters which expert stands in, by training recipe: python -m scripts.studies.quality.identity

SMoE rests on similarity: an expert of nearly the same score does what the missing one would have done. A model can test
that only if it matters which expert stands in. The test, fixed before any recipe but the shipped one was trained:

- LRU over the link, a quarter of the experts, score bands at the paper's alpha 0.35, 24 windows of 256 held-out tokens,
  cache reset at each. The same ranks of the same rule in every contrast.
- KL to the untouched model with the nearest gate score in place of a missing expert, with a random resident one, and
  with none; substitutes once with their own weight, once with that of the expert they replace.
- How far a contrast lies over the nearest, KL / KL of the nearest - 1, paired by document, 95 %. Margin: 10 %. It
  matters (yes) where the whole interval lies above the margin, not (no) where it lies below, else it is undecided.
- A recipe passes where a random expert and none both matter, with own and with inherited weights alike.

Every recipe changes some of the shipped one's numbers and nothing else. A training takes some 15 minutes of a core;
trained models and finished cases are kept, so a second call goes on where the first ended. Quality MEASURED.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from policies.substitution.score_band import ScoreBand
from scripts.command_line import print_table, run
from scripts.studies.quality.bench import Bench, Case, Outcome, column, with_interval
from scripts.studies.quality.rules import lru_with
from scripts.studies.quality.study import Row, arguments, bounds, write_results
from sim.live.weights import INHERIT, OWN
from sim.quality.drive import DROP, RANDOM
from sim.quality.intervals import DRAWS
from sim.quality.loop import Variant
from sim.statistics.bootstrap import estimate
from sim.statistics.margin import YES, above
from traces.demo.recipe import RECIPES as SHIPPED
from traces.demo.recipe import Recipe

DEMO = SHIPPED["demo"]
NOISE = 0.3
"""Of the logarithm of a score: what alpha 0.35 calls nearly the same, ln 1.35."""
RECIPES = {
    "shipped": DEMO,
    "router noise": replace(DEMO, name="demo_noise", router_noise=NOISE),
    "few distinct experts": replace(
        DEMO, name="demo_few", num_experts=16, top_k=2, expert_ffn_size=192, distinct_weight=0.1
    ),
}
ALPHA, FRACTION, MARGIN = 0.35, 0.25, 0.10
CONTRASTS = {"random": RANDOM, "dropped": DROP}


def main(argv: list[str]) -> None:
    """Train what is not trained, run the test on every recipe and seed, print and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), help="(default: all)")
    given = parser.parse_args(argv)
    rows: list[Row] = []
    for name in given.recipes:
        for seed in given.seeds:
            rows += rows_of(bench_of(given, RECIPES[name], seed), name)
    print_rows(rows)
    passed = {f"{name}, seed {seed}": passes(rows, name, seed) for name in given.recipes for seed in given.seeds}
    for name, verdict in passed.items():
        print(f"{name}: {'passes' if verdict else 'does not pass'}")
    write_results("quality_identity", given, rows, margin=MARGIN, passes=passed)


def bench_of(given: argparse.Namespace, recipe: Recipe, seed: int) -> Bench:
    """The bench of a recipe; the shipped one's as in the other studies."""
    other = None if recipe is DEMO else replace(recipe, seed=seed)
    return Bench(seed, given.windows, given.tokens, given.text_seed, given.folder, other)


def rows_of(bench: Bench, name: str) -> list[Row]:
    """A row for each weight and stand-in: KL, change of perplexity, and how far its KL lies over the nearest."""
    rows: list[Row] = []
    policy = lru_with(ScoreBand(alpha=ALPHA))

    def outcome(variant: Variant) -> Outcome:
        return bench.run(Case("score_band", ALPHA, policy, bench.seed, FRACTION, variant))

    for scheme in (OWN, INHERIT):
        nearest = outcome(Variant("policy", scheme=scheme))
        first: Row = {"recipe": name, "seed": bench.seed, "weights": scheme, "perplexity": perplexity(nearest)}
        rows.append(first | {"stand_in": "nearest"} | nearest.row(("kl", "perplexity_change", "substitution_rate")))
        for contrast, stand_in in CONTRASTS.items():
            other = outcome(Variant(contrast, stand_in, scheme))
            over = excess(other, nearest)
            matters = above(over["kl_excess.low"], over["kl_excess.high"], MARGIN)
            row = first | {"stand_in": contrast} | other.row(("kl", "perplexity_change")) | over
            rows.append(row | {"matters": matters})
    return rows


def perplexity(outcome: Outcome) -> float:
    """Of the untouched model."""
    sums = outcome.sums.sum(axis=0)
    return float(np.exp(column(sums, "nll_base") / column(sums, "predictions")))


def excess(other: Outcome, nearest: Outcome) -> dict[str, float]:
    """`kl_excess`: KL over that of the nearest, less 1, with its paired interval."""
    pair = np.stack([column(other.sums, "kl"), column(nearest.sums, "kl")], axis=1)
    return with_interval("kl_excess", estimate(pair, lambda sums: sums[..., 0] / sums[..., 1] - 1, DRAWS))


def passes(rows: list[Row], name: str, seed: int) -> bool:
    """Whether every contrast of a recipe's model matters."""
    return all(
        row["matters"] == YES for row in rows if row["recipe"] == name and row["seed"] == seed and "matters" in row
    )


def print_rows(rows: list[Row]) -> None:
    """The table."""
    cells = (
        {
            "recipe": row["recipe"], "seed": row["seed"], "weights": row["weights"], "in its place": row["stand_in"],
            "untouched perplexity": f"{row['perplexity']:.1f}", "KL, nats": f"{row['kl']:.4f}",
            "perplexity, %": bounds(row, "perplexity_change"),
            "KL over the nearest, %": bounds(row, "kl_excess", digits=0) if "matters" in row else "",
            f"over {100 * MARGIN:g} %": row.get("matters", ""),
        }
        for row in rows
    )  # fmt: skip
    print_table("quality MEASURED in closed loop", cells)


if __name__ == "__main__":
    run(main)
