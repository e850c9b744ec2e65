"""SMoE's CPU-assisted loading: the link takes important misses, the CPU the rest."""

from dataclasses import dataclass
from typing import ClassVar

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.state import CPU, LINK, State


@dataclass(frozen=True)
class TwoPointer(Assignment):
    """Split the misses, sorted by importance, between link and CPU so that both finish together.

    While misses remain: if T_link <= T_cpu the most important one left goes to the link (T_link += its copy time), else
    the least important one goes to the CPU (T_cpu += its CPU time). Costs are the machine's own, where the paper takes
    running means of measurements. Experts computed on the CPU are not cached.
    Badly: greedy: when one CPU expert costs a fraction of a copy the best split is up to a tenth faster.

    Source: SMoE, Algorithm 2, https://arxiv.org/abs/2508.18983.
    """

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMPORTANCE, Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        ranked = state.order
        for i in range(state.num_missing):
            place = i
            while place > 0 and state.missing_importance[ranked[place - 1]] < state.missing_importance[i]:
                ranked[place] = ranked[place - 1]
                place -= 1
            ranked[place] = i
        first, last, link_ns, cpu_ns = 0, state.num_missing - 1, 0, 0
        while first <= last:
            if link_ns <= cpu_ns:
                state.side[ranked[first]] = LINK
                link_ns += state.missing_load_ns[ranked[first]]
                first += 1
            else:
                state.side[ranked[last]] = CPU
                cpu_ns += state.missing_cpu_ns[ranked[last]]
                last -= 1
