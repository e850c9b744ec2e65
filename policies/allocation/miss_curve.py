"""AdapMoE's split: a dynamic programme over the miss curves of the layers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Allocation, check_total
from policies.needs import Need
from traces.errors import UserError
from traces.format.trace import DECODE, Trace
from traces.statistics.miss_curve import lru_miss_curve


@dataclass(frozen=True)
class MissCurveSplit(Allocation):
    """The split with the fewest bytes missed, F[i][j] = min over k of F[i-1][j-k] + f_i(k).

    F[i][j] is the least cost of the first i layers with j slots, f_i(k) the bytes that layer i misses with k slots. f
    is measured: the step-LRU miss curve of other requests, decode steps alone or prompts too. AdapMoE uses the same
    programme with a formula for f (cache size, accuracy of its prefetch, share of tokens that need one expert). Equal
    costs give the later layer fewer slots. Optimal for LRU per layer on the requests it learned from; badly: where
    others differ from those replayed, or where the rule inside the layers is not LRU.

    Source: AdapMoE, cache management, https://arxiv.org/abs/2408.10284; src/dp.py of
    https://github.com/PKU-SEC-Lab/AdapMoE.
    """

    decode_only: bool = True

    needs: ClassVar[frozenset[Need]] = frozenset({Need.FIT})
    uniform: ClassVar[bool] = False

    def slots(self, total: int, num_experts: int, others: Trace | None, size: NDArray[np.int64]) -> NDArray[np.int64]:
        check_total(total, size.size, num_experts)
        if others is None:
            raise UserError("policy.allocation miss_curve learns from requests that are not replayed, and has none")
        curve = lru_miss_curve(others)
        phases = slice(DECODE, DECODE + 1) if self.decode_only else slice(None)
        misses = curve.demands[phases].sum(axis=0)[:, None] - curve.hits[phases].sum(axis=0)  # [L, E + 1]
        return split(misses * size[:, None], total)


def split(cost: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Slots per layer, [L], with the least sum of ``cost`` [L, E + 1], each at least 1, ``total`` together."""
    layers, most = cost.shape[0], cost.shape[1] - 1
    never = np.iinfo(np.int64).max // 2
    best = np.full(total + 1, never, np.int64)  # F[i], by slots j
    best[0] = 0
    taken = np.zeros((layers, total + 1), np.int64)
    for layer in range(layers):
        lowest = np.full(total + 1, never, np.int64)
        for k in range(1, min(most, total) + 1):
            candidate = best[: total + 1 - k] + cost[layer, k]
            better = candidate < lowest[k:]
            lowest[k:][better] = candidate[better]
            taken[layer, k:][better] = k
        best = lowest
    slots = np.zeros(layers, np.int64)
    for layer in range(layers - 1, -1, -1):
        slots[layer] = taken[layer, total]
        total -= int(slots[layer])
    return slots
