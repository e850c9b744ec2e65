"""CPU-assisted loading as SMoE's released code does it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector
from policies.jitable import jitable
from policies.needs import Need
from policies.splits import by_first_touch, sort_falling
from policies.state import CPU, LINK, State

SAMPLES = 10
"""How many measurements of a copy the code keeps."""
FIRST_LOAD_NS = 2e6
"""Its first estimate, before any measurement."""
FEWEST_ON_CPU = 2
"""Until the CPU has computed so many experts of a layer, a copy counts as much as an expert on the CPU."""


@jitable
def mean_without_outliers(samples: Vector) -> float:
    """Mean of what lies within one standard deviation of the mean; of all, where that leaves nothing or n <= 2."""
    mean = samples.mean()
    if samples.shape[0] <= 2:
        return float(mean)
    deviation, total, kept = samples.std(), 0.0, 0
    for sample in samples:
        if abs(sample - mean) <= deviation:
            total += sample
            kept += 1
    return float(total / kept) if kept > 0 else float(mean)


@jitable
def remember(memory: Vector, sample: float) -> None:
    """Add a measurement of a copy to the last ``SAMPLES``."""
    memory[1 + int(memory[0]) % SAMPLES] = sample
    memory[0] += 1.0


@dataclass(frozen=True)
class SmoeCodeSplit(Assignment):
    """Go through the misses by falling token count, those of equal count in order of their first touch: to the link if
    it has less time booked than the CPU, else to the CPU.

    Both start at 0, so the first miss, which serves the most tokens, always goes to the CPU (the paper's rule,
    ``two_pointer``, gives the first to the link and takes the CPU's share from the other end). A CPU expert costs what
    it takes. What a copy costs depends on ``wait_as_load``. True, as in the code of April 2026: the wait that is left
    once the CPU is done, divided by the number of copies, mean of the last 10 layer steps without outliers; the better
    the CPU hides copies the cheaper they look, so that the link gets too many. False, as measured by events since July
    2026: what it takes.
    The wait is reckoned here as copies in a row minus CPU experts in a row, without a copy already under way and
    without contention; the first estimate is 2 ms, and until the CPU has computed two experts of a layer a copy counts
    as much as an expert there, as in the code.
    Badly: with one or two misses on a slow CPU.

    Memory: measurements taken, the last 10 of them in ns, then by layer the experts computed on the CPU [L].

    Source: goingshr/SMoE, utils/expertcache.py, ``CPU_load_management``, and MoEModule/SMoE_base.py, steps B5 to B8;
    docs/stage2_optimization.md for the change of July, https://github.com/goingshr/SMoE.
    """

    wait_as_load: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1 + SAMPLES + num_layers

    def assign(self, state: State, memory: Vector) -> None:
        if memory[0] == 0.0:
            remember(memory, FIRST_LOAD_NS)
        estimate_ns = mean_without_outliers(memory[1 : 1 + min(int(memory[0]), SAMPLES)])
        computed = 1 + SAMPLES + state.layer
        early = memory[computed] < FEWEST_ON_CPU
        tokens = np.zeros(state.num_missing, np.float64)
        ranked = np.zeros(state.num_missing, np.int32)
        by_first_touch(state, ranked)
        for i in range(state.num_missing):
            tokens[i] = state.missing_tokens[i]
        sort_falling(tokens, state.num_missing, ranked)
        link_ns, cpu_ns, copies_ns, copies = 0.0, 0.0, 0.0, 0
        for i in range(state.num_missing):
            expert = ranked[i]
            state.order[i] = expert
            if link_ns < cpu_ns:
                state.side[expert] = LINK
                copies += 1
                copies_ns += state.missing_load_ns[expert]
                if not self.wait_as_load:
                    link_ns += state.missing_load_ns[expert]
                elif early:
                    link_ns += state.missing_cpu_ns[expert]
                else:
                    link_ns += estimate_ns
            else:
                state.side[expert] = CPU
                cpu_ns += state.missing_cpu_ns[expert]
                memory[computed] += 1.0
        if copies > 0:
            remember(memory, max(0.0, copies_ns - cpu_ns) / copies)
