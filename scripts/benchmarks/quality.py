"""Prints what a policy adds to a forward pass of the demo model: python -m scripts.benchmarks.quality [--windows 4]

Each row: the best of several rounds in which the untouched pass and the pass with the policy take turns, on one thread,
in processor time, so that other programs slow both alike. MEASURED on this machine;
the aim is a ratio of at most 1.25.

--whole times `python -m sim quality policy=importance` instead, from its start to its answer, in a process of its own
that resumes nothing: wall time beside the processor time of the process. The aim is five minutes on 2 cores.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from policies.base import Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from scripts.benchmarks.timing import in_turn, processor_s
from scripts.command_line import environment, parser_of, run
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import load_hardware
from sim.machine.machine import Machine
from sim.quality.decode import decode
from sim.quality.loop import Variant
from sim.quality.parallel import parallel, plain_logits
from sim.quality.settings import QualityConfig, StudyConfig
from sim.quality.study import DEMO_SIZES, make_study
from traces.demo.cache import demo_model
from traces.demo.recipe import named_recipe
from traces.recording.loading import load_model

POLICIES = ("lru", "cache_prior", "importance")
OWN = Variant("policy")


def main(argv: list[str]) -> None:
    """Print two rows for each policy."""
    parser = parser_of(__doc__)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", nargs="*", metavar="OVERRIDE", help="time the command, with further overrides")
    options = parser.parse_args(argv)
    if options.whole is not None:
        time_whole(options.whole)
        return
    torch.set_num_threads(1)
    model = load_model(str(demo_model(named_recipe("demo"))), "float32")
    settings = QualityConfig(windows=options.windows, tokens=options.tokens)
    print(f"{'policy':<16}{'pass':<24}{'plain, ms/token':>17}{'policy, ms/token':>18}{'ratio':>8}")
    for name in POLICIES:
        setup = DeviceSetup(
            one_layer_policy(name), Machine(load_hardware("s1_rtx3080ti")), CacheConfig(reset="request")
        )
        study = make_study(model, setup, StudyConfig.windows_only(settings), default_sizes=DEMO_SIZES)
        loop, tokens = study.loop, study.windows.tokens
        short = tokens[0, :64]
        print_row(
            name, f"{options.windows} x {options.tokens} parallel", options.rounds, tokens.size,
            partial(plain_logits, model.model, tokens), partial(parallel, loop, tokens, OWN),
        )  # fmt: skip
        print_row(
            name, "64 tokens, decode", 3, short.size,
            partial(step_by_step, model.model, short), partial(decode, loop, short, OWN),
        )  # fmt: skip


def time_whole(overrides: list[str]) -> None:
    """Run the command as a user does and print how long it took."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["quality", "policy=importance", "resume=false", f"hydra.run.dir={folder}/out", *overrides]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "sim", *words], env=environment(), check=False)
        wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"MEASURED: {' '.join(['python -m sim', *words[:2], *overrides])}: exit {done.returncode}, {wall_s:.0f} s, ")
    print(f"{spent_s:.0f} s of processor time, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def one_layer_policy(name: str) -> Policy:
    """The policy; `importance` with its decisions over one layer, so that one pass can take them."""
    policy = load_policy(name)
    if name == "importance":
        policy = replace(policy, prediction=NoPrediction(), prefetch=NoPrefetch())
    return policy


def step_by_step(model: object, tokens: np.ndarray) -> None:
    """The untouched model through its KV cache."""
    past = None
    with torch.no_grad():
        for token in tokens:
            output = model(input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True)  # type: ignore[operator]
            past = output.past_key_values


def print_row(
    name: str, kind: str, rounds: int, tokens: int, plain: Callable[[], object], changed: Callable[[], object]
) -> None:
    """The best of each pass in ms per token, and their ratio."""
    runs = {"plain": lambda: processor_s(plain), "policy": lambda: processor_s(changed)}
    plain_ms, policy_ms = (1e3 * min(seconds) / tokens for seconds in in_turn(runs, rounds).values())
    print(f"{name:<16}{kind:<24}{plain_ms:>17.4f}{policy_ms:>18.4f}{policy_ms / plain_ms:>8.2f}", flush=True)


if __name__ == "__main__":
    run(main)
