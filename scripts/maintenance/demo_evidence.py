"""Prints what the demo model shows on held-out text: python -m scripts.maintenance.demo_evidence

The untuned contrast stands beside it. Trains each model on first use (some 12 minutes of a core, kept in the
user's cache), then measures gate slope, locality and the harm of replacing every low-band active expert, closed loop
(about a minute per model and 96 windows). The gate slope of `demo` is set by its training recipe to published
statistics, not emergent.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from scripts.command_line import parser_of, run
from scripts.maintenance.held_out import (
    KINDS,
    Evidence,
    as_trace,
    harm_ratio,
    held_out_windows,
    measure,
    perplexity_change,
)
from traces.corpus import Corpus, load_corpus
from traces.demo.cache import demo_model
from traces.demo.recipe import RECIPES, Recipe, named_recipe
from traces.recording.loading import load_model
from traces.statistics.miss_curve import lru_miss_curve
from traces.statistics.routing import next_token_reuse
from traces.torch_threads import single_thread


def main(argv: list[str]) -> None:
    """Measure the named models and print one column for each."""
    parser = parser_of(__doc__)
    parser.add_argument("models", nargs="*", default=list(RECIPES), help=f"of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--windows", type=int, default=96, help="held-out windows of 256 tokens (default 96)")
    parser.add_argument("--alpha", type=float, default=0.35, help="upper edge of the low-score band (default 0.35)")
    parser.add_argument("--seed", type=int, default=0, help="training seed (default 0)")
    arguments = parser.parse_args(argv)
    corpus = load_corpus()
    columns = []
    for name in arguments.models:
        recipe = named_recipe(name, arguments.seed)
        columns.append(_column(recipe, corpus, arguments.windows, arguments.alpha))
        print(f"{name}: {recipe.statement}", file=sys.stderr)
    for label in columns[0]:
        print(f"{label:<42}" + "".join(f"{column[label]:>28}" for column in columns))


def _column(recipe: Recipe, corpus: Corpus, count: int, alpha: float) -> dict[str, str]:
    started = time.perf_counter()
    loaded = load_model(str(demo_model(recipe, corpus)), "float32")
    ready = time.perf_counter()
    windows = held_out_windows(corpus, loaded.tokenizer, count, recipe.context_tokens)
    with single_thread():
        evidence = measure(loaded.model, windows, alpha)
    measured = time.perf_counter()
    trace = as_trace(evidence, recipe.num_experts)
    curve = lru_miss_curve(trace)
    base = evidence.losses["unchanged"]
    return {
        "model": recipe.name,
        "gate slope h": f"{evidence.gate_slope:.3f}",
        f"low-score share, alpha {alpha:g}": f"{evidence.low_share:.3f}",
        "LRU hit rate at 25 % capacity": f"{curve.hit_rate(recipe.num_experts // 4):.3f}",
        "LRU hit rate at 17 % capacity": f"{curve.hit_rate(round(recipe.num_experts * 0.17)):.3f}",
        "next-token reuse": f"{next_token_reuse(trace):.3f}",
        "loss, nats per token": f"{base.mean():.3f}",
        "perplexity": f"{np.exp(base.mean()):.0f}",
        **{f"perplexity, low band {kind.replace('_', ' ')}": _percent(evidence, kind) for kind in KINDS},
        "harm of random over next-ranked": "{:.2f} [{:.2f}, {:.2f}]".format(*harm_ratio(evidence)),
        "seconds to train or load, to measure": f"{ready - started:.0f}, {measured - ready:.0f}",
    }


def _percent(evidence: Evidence, kind: str) -> str:
    change, low, high = perplexity_change(evidence, kind)
    return f"{100 * change:+.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


if __name__ == "__main__":
    run(main)
