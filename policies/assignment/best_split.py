"""The split between link and CPU that finishes the layer soonest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Assignment, Vector
from policies.needs import Need
from policies.splits import by_importance, find_best_split, ready_ns, serving_order
from policies.state import State


@dataclass(frozen=True)
class BestSplit(Assignment):
    """Minimise max(end of the GPU, sum of the CPU's experts) over all splits of the misses.

    The link copies one expert after the other, the GPU first computes what is there and then each expert as it arrives;
    copies are served in the order that ends soonest. Of equally fast splits the CPU gets the fewest and least
    important, because copied experts stay in the cache. Exact for up to 12 misses of different cost, and for any
    number whose copies and GPU computes cost the same; beyond that the link gets the experts dearest to the CPU, and
    only their number is searched. It sees neither a copy already under way nor what prefetching would do with the link.
    Badly: soonest for this layer is not best for the next ones, since what the CPU computes is not cached.

    Source: bound of this project for the rules that split.
    """

    one_layer: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.IMPORTANCE, Need.CPU})

    def assign(self, state: State, memory: Vector) -> None:
        count = state.num_missing
        load_ns, gpu_ns = state.missing_load_ns[:count], state.missing_gpu_ns[:count]
        order = np.zeros(count, np.int32)
        by_importance(state, order)
        find_best_split(load_ns, gpu_ns, state.missing_cpu_ns[:count], order, ready_ns(state), state.side)
        serving_order(load_ns, gpu_ns, count, order)
        state.order[:count] = order
