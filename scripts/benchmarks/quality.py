"""What the policy adds to a forward pass of the demo model.

Run: python -m scripts.benchmarks.quality [--windows 4]

Each row: the best of several rounds in which the untouched pass and the pass with the policy take turns, on one thread,
in processor time, so that neither other programs nor a change of the machine's mood decides. MEASURED on this machine;
the aim is a ratio of at most 1.25.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from sim.assembly.catalogue import load_policy
from sim.machine.hardware import load_hardware
from sim.quality.decode import decode
from sim.quality.loop import Variant
from sim.quality.parallel import parallel, plain_logits
from sim.quality.settings import ClozeConfig, GenerationConfig, QualityConfig
from sim.quality.study import DEMO_SIZES, make_study
from traces.demo.cache import demo_model
from traces.demo.recipe import named_recipe
from traces.recording.loading import load_model

POLICIES = ("lru", "cache_prior", "importance")


def best(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The shortest processor time of each, in turn, seconds."""
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            found[name] = min(found[name], time.process_time() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(str(demo_model(named_recipe("demo"))), "float32")
    settings = QualityConfig(windows=arguments.windows, tokens=arguments.tokens)
    print(f"{'policy':<16}{'pass':<24}{'plain, ms/token':>17}{'policy, ms/token':>18}{'ratio':>8}")
    for name in POLICIES:
        policy = load_policy(name)
        if name == "importance":  # its decisions over one layer, so that one pass can take them
            from policies.prediction.none import NoPrediction
            from policies.prefetch.none import NoPrefetch

            policy = replace(policy, prediction=NoPrediction(), prefetch=NoPrefetch())
        study = make_study(
            loaded, policy, load_hardware("s1_rtx3080ti"), settings, cloze=ClozeConfig(items=0),
            generation=GenerationConfig(windows=0), default_sizes=DEMO_SIZES,
        )  # fmt: skip
        tokens = study.windows.tokens
        runs: dict[str, Callable[[], object]] = {
            "plain": lambda tokens=tokens: plain_logits(loaded.model, tokens),  # type: ignore[misc]
            "policy": lambda study=study: parallel(study.loop, study.windows.tokens, Variant("policy")),  # type: ignore[misc]
        }
        print_row(name, f"{arguments.windows} x {arguments.tokens} parallel", best(runs, arguments.rounds), tokens.size)
        short = tokens[0, :64]
        runs = {
            "plain": lambda short=short: step_by_step(loaded.model, short),  # type: ignore[misc]
            "policy": lambda study=study, short=short: decode(study.loop, short, Variant("policy")),  # type: ignore[misc]
        }
        print_row(name, "64 tokens, decode", best(runs, 3), short.size)


def step_by_step(model: object, tokens: np.ndarray) -> None:
    """The untouched model through its KV cache."""
    past = None
    with torch.no_grad():
        for token in tokens:
            output = model(input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True)  # type: ignore[operator]
            past = output.past_key_values


def print_row(name: str, kind: str, found: dict[str, float], tokens: int) -> None:
    plain, policy = (1e3 * found[key] / tokens for key in ("plain", "policy"))
    print(f"{name:<16}{kind:<24}{plain:>17.4f}{policy:>18.4f}{policy / plain:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
