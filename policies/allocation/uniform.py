"""The same number of slots for every layer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.allocation.base import Allocation, check_total
from traces.format.trace import Trace


@dataclass(frozen=True)
class Uniform(Allocation):
    """Equal slots; what does not divide goes to the first layers, one slot each.

    Source: plain practice, for example Eliseev and Mazur, section 3.1, https://arxiv.org/abs/2312.17238.
    """

    def slots(self, total: int, num_experts: int, others: Trace | None, size: NDArray[np.int64]) -> NDArray[np.int64]:
        check_total(total, size.size, num_experts)
        return total // size.size + (np.arange(size.size) < total % size.size).astype(np.int64)
