"""Prints which lossless policies are ever near the best: python -m scripts.studies.smoe.rivals

Prints, for S1 on a few requests of the embedded trace, every lossless policy's TPOT over that of the best one at the
corners of host cost and CPU speed, and the names that come within 10 % of the best anywhere: those are
``NEAR_THE_BEST``, which the other studies choose the best baseline from, so as not to replay the rest on every machine.
A few minutes, most of them for compiling every rule. SIMULATED, sizes ESTIMATED.
"""

from __future__ import annotations

import itertools

from policies.needs import SEES_FUTURE
from scripts.command_line import parser_of, run
from scripts.studies.smoe.replays import (
    CPU_RATIOS,
    HOSTS_S,
    SETUPS,
    Bench,
    Contender,
    Machine,
    split,
    value,
)
from sim.assembly.catalogue import load_policy, load_system, system_names

LRU_AND_CPU = Contender(("cpu",))
"""LRU with SMoE's rule for the CPU: no system of anyone, and the least that a lossless rival could do."""
CORNERS = tuple(Machine(*corner) for corner in itertools.product((HOSTS_S[0], HOSTS_S[-1]), CPU_RATIOS))
SCREENED_REQUESTS, MARGIN = 6, 0.10
NEAR_THE_BEST = ("dali", "hybrimoe_paper", "hybrimoe_true_costs")
"""What `screen` finds beside ``LRU_AND_CPU``, but for the next."""
NEAR_BUT_BEHIND = ("llama_cpp_hot_cache",)
"""Within the margin too, and the best at no corner: 3 % behind ``hybrimoe_true_costs`` at batch 1, no host time, a CPU
expert at a third of a copy, 11 % or more behind elsewhere. It came after the tables of the other studies, which choose
the best baseline without it."""


def lossless() -> list[str]:
    """The policies that execute every expert as routed, keep some of them, and do not see the future."""
    return [
        name
        for name in system_names()
        if load_system(name).parts["substitution"] == "none"
        and load_policy(name).residency == "cache"
        and not SEES_FUTURE & load_policy(name).needs().keys()
    ]


def rivals(form: str = "any", names: tuple[str, ...] = NEAR_THE_BEST) -> list[Contender]:
    """Lossless contenders. ``form``: 'paper' leaves out what a system's code does instead, 'code' the reverse."""
    other = {"paper": "_code", "code": "_paper", "any": " "}[form]
    return [LRU_AND_CPU, *(Contender(system=name) for name in names if not name.endswith(other))]


def screen(bench: Bench, batches: tuple[int, ...] = (1, 3)) -> dict[str, list[float]]:
    """Every lossless policy -> its TPOT over the best one's, per batch and corner, on S1."""
    columns = []
    for batch, machine in itertools.product(batches, CORNERS):
        every = [*(Contender(system=name) for name in lossless()), LRU_AND_CPU]
        times = {one.label: value(bench.run(SETUPS[0], one, batch, machine), "TPOT") for one in every}
        columns.append({name: time / min(times.values()) for name, time in times.items()})
    return {name: [column[name] for column in columns] for name in columns[0]}


def near_the_best(found: dict[str, list[float]]) -> tuple[str, ...]:
    """The policies of the library that come within the margin somewhere."""
    return tuple(name for name, over in found.items() if min(over) <= 1 + MARGIN and name != LRU_AND_CPU.label)


def main(argv: list[str]) -> None:
    """Print the screen."""
    parser_of(__doc__).parse_args(argv)
    found = screen(Bench(*split(None, SCREENED_REQUESTS, SCREENED_REQUESTS)))
    heads = [f"b{b} {m.host_s * 1e3:g}/{m.cpu_ratio:.2f}" for b, m in itertools.product((1, 3), CORNERS)]
    print("SIMULATED, S1: TPOT over that of the best lossless policy, by batch, host ms per layer / CPU in copies")
    print(f"{'':<26}" + "".join(f"{head:>11}" for head in heads))
    for name, over in sorted(found.items(), key=lambda pair: min(pair[1])):
        print(f"{name:<26}" + "".join(f"{ratio:>11.2f}" for ratio in over))
    print(f"within {MARGIN:.0%} of the best somewhere: {', '.join(near_the_best(found))}")


if __name__ == "__main__":
    run(main)
