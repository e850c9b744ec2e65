"""Place the experts for which the side matters most first, each where it ends sooner: DALI."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.splits import sort_falling
from policies.state import CPU, LINK, State


@dataclass(frozen=True)
class GreedyBalance(Assignment):
    """By falling |CPU time - GPU time| give each missing expert to the side on which it ends sooner.

    An expert's GPU time is its copy plus its compute; a side's time is the sum of what it was given. Ties go to the
    link. DALI places cached experts in the same way, with no copy to pay; here they always run on the GPU, and only the
    misses are placed.
    Badly: greedy: late, cheap experts cannot repair an early choice.

    Source: DALI, https://arxiv.org/abs/2602.03495.
    """

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        difference = np.zeros(state.num_missing, np.float64)
        ranked = np.zeros(state.num_missing, np.int32)
        for i in range(state.num_missing):
            ranked[i] = i
            difference[i] = abs(state.missing_cpu_ns[i] - state.missing_load_ns[i] - state.missing_gpu_ns[i])
        sort_falling(difference, state.num_missing, ranked)
        gpu_ns, cpu_ns = 0, 0
        for i in range(state.num_missing):
            expert = ranked[i]
            on_gpu_ns = gpu_ns + state.missing_load_ns[expert] + state.missing_gpu_ns[expert]
            on_cpu_ns = cpu_ns + state.missing_cpu_ns[expert]
            if on_gpu_ns <= on_cpu_ns:
                state.side[expert] = LINK
                gpu_ns = on_gpu_ns
            else:
                state.side[expert] = CPU
                cpu_ns = on_cpu_ns
            state.order[i] = expert
