"""Each missing expert goes where it costs less: Fiddler."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.splits import find_best_split
from policies.state import CPU, State


@dataclass(frozen=True)
class CheaperSide(Assignment):
    """Compute an expert on the CPU if that takes less than copying it and computing it on the GPU.

    That minimises the sum of all costs, which is what the released code searches for. ``balance`` minimises the longer
    of the two sides' sums instead, which is what the comment above that search announces (exhaustively up to 12
    experts, see ``policies.splits.find_best_split``). Costs are the machine's own, where Fiddler measures them at the
    start. Fiddler keeps a static set of popular experts on the GPU: where the CPU is always cheaper, as in decode, a
    cold cache stays empty, so start warm (``cache.start=warm``).
    Badly: without ``balance`` one side idles while the other serves every miss.

    Source: Fiddler, https://arxiv.org/abs/2402.07033; src/fiddler/mixtral.py, https://github.com/efeslab/fiddler.
    """

    balance: bool = False

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        count = state.num_missing
        gpu_side = np.zeros(count, np.int64)
        for i in range(count):
            gpu_side[i] = state.missing_load_ns[i] + state.missing_gpu_ns[i]
            if state.missing_cpu_ns[i] < gpu_side[i]:
                state.side[i] = CPU
        if self.balance:
            nothing = np.zeros(count, np.int64)
            find_best_split(gpu_side, nothing, state.missing_cpu_ns[:count], state.order[:count].copy(), 0, state.side)
