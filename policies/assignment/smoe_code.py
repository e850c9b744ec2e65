"""CPU-assisted loading as SMoE's released code does it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.splits import sort_falling
from policies.state import CPU, LINK, State


@dataclass(frozen=True)
class SmoeCodeSplit(Assignment):
    """Go through the misses by falling token count: to the link if it has less time booked than the CPU, else the CPU.

    Both start at 0, so the first miss, which serves the most tokens, always goes to the CPU (the paper's rule,
    ``two_pointer``, gives the first to the link and takes the CPU's share from the other end). Costs are the machine's
    own; the code measures both, and measures the copy as what is left of it once the CPU is done, which makes the link
    look cheaper than it is.
    Badly: with one or two misses on a slow CPU.

    Source: main branch of goingshr/SMoE before the repairs of branch CPU_V2, ``CPU_load_management``,
    https://github.com/goingshr/SMoE.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        tokens = np.zeros(state.num_missing, np.float64)
        ranked = np.zeros(state.num_missing, np.int32)
        for i in range(state.num_missing):
            ranked[i] = i
            tokens[i] = state.missing_tokens[i]
        sort_falling(tokens, state.num_missing, ranked)
        link_ns, cpu_ns = 0, 0
        for i in range(state.num_missing):
            expert = ranked[i]
            if link_ns < cpu_ns:
                state.side[expert] = LINK
                link_ns += state.missing_load_ns[expert]
            else:
                state.side[expert] = CPU
                cpu_ns += state.missing_cpu_ns[expert]
            state.order[i] = expert
