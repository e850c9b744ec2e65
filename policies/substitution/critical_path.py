"""Give up the experts that buy most time on the layer's critical path, within a budget of lost gate mass per token."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.base import Substitution, Vector, require
from policies.jitable import jitable
from policies.memory import given
from policies.needs import Need
from policies.scores import SMALLEST_SCORE, share_of_weight
from policies.splits import soonest_ns, sort_falling
from policies.state import IN_FLIGHT, RESIDENT, State
from policies.substitutes import (
    all_resident,
    best_resident,
    left_alone,
    mark_resident,
    mark_routed,
    substitute_in_band,
)

Places = NDArray[np.int32]
KEPT = 2.0
"""Added to the harm of an expert that must run; no other harm is above 1."""
MOST_LOG_PRICE = 20.0


@dataclass(frozen=True)
class CriticalPath(Substitution):
    """Replace the missing experts of least harm, as many as minimise finish / copy + price * harm of those given up.

    Let a step miss experts of harm c_1 <= c_2 <= ... and T(m) be the soonest end of those after the m-th, split between
    link and CPU, behind what is on the link and what the GPU computes meanwhile. To minimise the sum of T over all
    steps under a bound on the sum of harm is, with a Lagrange multiplier, to minimise T(m) / (time of a copy) + price *
    (c_1 + ... + c_m) in each: the harm that saves most time per unit goes first, and nothing is replaced where a copy
    hides. Harm of an expert is the mean over the step's tokens of its share of the token's router weight times 1 -
    (score of the stand-in) / (its own): what is executed in its place takes its own gate weight and restores that much.
    The budget of a step is ``share`` of the mass that SMoE's score bands of ``alpha`` would give up in it, on the same
    residents: what is lost follows those bands on requests that nobody has seen, which a number fixed on others cannot.
    ``loss`` is such a number, the same for every step. The multiplier is found while running: log(price) grows by
    ``rate`` * (mass given up - budget) in each layer step, so that both have the same mean but for (change of log
    price) / (rate * steps). Mass is counted as ``lost_gate_mass`` does: all of a replaced expert's weight, whoever
    stands in. Stand-ins are the resident experts of highest score that the token does not use; one of score 0 never
    stands in. The ``keep`` best experts of a token always run. ``price``: the first one, in copies per unit of harm.
    ``cpu``: whether the assignment may use the CPU.
    Badly: T knows this layer only, not what a copy that is not made would have brought for later tokens; a burst of
    misses early on is paid for at the first price. Bands on a cache that holds more give up less, so that a budget by
    them shrinks where eviction and prefetch do better than SMoE's.

    Memory: [0] log(price / first price).

    Source: rule of this project; docs/results/search.md holds it against others. Bands: https://arxiv.org/abs/2508.18983.
    """

    alpha: float = 0.35
    share: float = 0.97
    loss: float | None = None
    keep: int = 1
    price: float = 5.0
    rate: float = 0.3
    cpu: bool = True
    during_prefill: bool = False

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GATE_SCORES})

    def __post_init__(self) -> None:
        require("policy.substitution.alpha", self.alpha, 0.0, 1.0)
        require("policy.substitution.share", self.share, 0.0, 100.0)
        if self.loss is not None:
            require("policy.substitution.loss", self.loss, 0.0, 1.0)
        require("policy.substitution.keep", self.keep, 0, 65535)
        require("policy.substitution.price", self.price, 1e-6, 1e6)
        require("policy.substitution.rate", self.rate, 0.0, 100.0)

    def all_needs(self) -> frozenset[Need]:
        return self.needs | {Need.CPU} if self.cpu else self.needs

    def band(self) -> float | None:
        return self.alpha if self.loss is None else None

    def memory_size(self, num_layers: int, num_experts: int, num_ranks: int) -> int:
        return 1

    def substitute(self, state: State, memory: Vector) -> None:
        if left_alone(state, self.during_prefill):
            return
        lost, budget, most = 0.0, 0.0, self.share
        if given(self.loss):
            budget = most = self.loss
        if most > 0.0 and not all_resident(state):
            if not given(self.loss):
                budget = self.share * mass_in_band(state, self.alpha)
            missing, tokens = np.zeros(state.num_demand, np.int32), np.zeros(state.num_demand, np.int32)
            mass, harm = np.zeros(state.num_demand, np.float64), np.zeros(state.num_demand, np.float64)
            resident = np.zeros(state.num_experts, np.bool_)
            mark_resident(state, resident)
            count = weigh_missing(state, self.keep, missing, tokens, mass, harm)
            order = np.zeros(count, np.int32)
            spared = order_by_harm(state, missing, harm, count, resident, order)
            price = self.price * np.exp(memory[0])
            given_up = cheapest(state, missing, tokens, harm, order, spared, price, self.cpu)
            if given_up > 0:
                replace_experts(state, missing, order[:given_up], resident)
            for i in range(given_up):
                lost += mass[order[i]]
        moved = memory[0] + self.rate * (lost - budget)
        memory[0] = min(max(moved, -MOST_LOG_PRICE), MOST_LOG_PRICE)


@jitable
def mass_in_band(state: State, alpha: float) -> float:
    """Mean over the step's tokens of the share of weight that score bands would replace; nothing is replaced."""
    available, free = np.zeros(state.num_experts, np.float64), np.zeros(state.num_experts, np.float64)
    substitute_in_band(state, alpha, True, available, free)
    total = 0.0
    for token in range(state.num_tokens):
        for rank in range(state.token_ranks[token]):
            if state.executed_ids[token, rank] != state.ids[token, rank]:
                total += share_of_weight(state, token, rank)
                state.executed_ids[token, rank] = state.ids[token, rank]
    return total / state.num_tokens


@jitable
def weigh_missing(state: State, keep: int, missing: Places, tokens: Places, mass: Vector, harm: Vector) -> int:
    """List the demanded experts that are not resident, how many tokens use each, and mass and harm -> how many."""
    place, count = np.full(state.num_experts, -1, np.int32), 0
    for i in range(state.num_demand):
        if state.status[state.layer, state.demand[i]] != RESIDENT:
            missing[count], place[state.demand[i]] = state.demand[i], count
            count += 1
    for token in range(state.num_tokens):
        for rank in range(state.token_ranks[token]):
            i = place[state.ids[token, rank]]
            if i >= 0:
                tokens[i] += 1
                share = share_of_weight(state, token, rank)
                mass[i] += share / state.num_tokens
                harm[i] += share / state.num_tokens + (KEPT if rank < keep else 0.0)
    return count


@jitable
def order_by_harm(
    state: State, missing: Places, harm: Vector, count: int, resident: NDArray[np.bool_], order: Places
) -> int:
    """Write the missing experts to ``order``: those that every token of theirs can spare, by rising weight, then the
    others -> how many the former are. ``harm`` holds weights, and of the former then what replacing each of them does
    once those before it have taken their stand-ins."""
    used = np.zeros((state.num_tokens, state.num_experts), np.bool_)
    for token in range(state.num_tokens):
        mark_routed(state, token, used[token])
    keys, rising = np.zeros(count), np.zeros(count, np.int32)
    for i in range(count):
        keys[i], rising[i] = -harm[i], i
    sort_falling(keys, count, rising)
    spared, others = 0, np.zeros(count, np.int32)
    for i in range(count):
        one = rising[i]
        done = harm_of(state, missing[one], resident, used, False) if harm[one] < KEPT else -1.0
        if done < 0.0:
            others[i - spared] = one
            continue
        harm[one] = harm_of(state, missing[one], resident, used, True)
        order[spared] = one
        spared += 1
    order[spared:] = others[: count - spared]
    return spared


@jitable
def harm_of(state: State, expert: int, resident: NDArray[np.bool_], used: NDArray[np.bool_], take: bool) -> float:
    """Mean over the step's tokens of the share of weight that the stand-in does not restore; -1 where a token has no
    stand-in. ``take``: mark the stand-ins as used."""
    total = 0.0
    for token in range(state.num_tokens):
        scores = state.scores[token, : state.num_experts]
        for rank in range(state.token_ranks[token]):
            if state.ids[token, rank] != expert:
                continue
            best = best_resident(scores, 0.0, resident, used[token])
            if best < 0 or scores[best] <= 0.0:
                return -1.0
            if take:
                used[token, best] = True
            restored = min(float(scores[best]) / max(float(scores[expert]), SMALLEST_SCORE), 1.0)
            total += share_of_weight(state, token, rank) * (1.0 - restored) / state.num_tokens
    return total


@jitable
def cheapest(
    state: State, missing: Places, tokens: Places, harm: Vector, order: Places, spared: int, price: float, cpu: bool
) -> int:
    """How many of the first ``spared`` in ``order`` to give up."""
    layer, count = state.layer, order.shape[0]
    load_ns, gpu_ns = float(state.load_ns[layer]), float(state.gpu_ns[layer, 1])
    best, least, lost = 0, 0.0, 0.0
    on_cpu = np.zeros(count, np.float64)
    for given_up in range(spared + 1):
        if given_up > 0:
            lost += harm[order[given_up - 1]]
        left, link_ns = 0, float(state.link_left_ns)
        for i in range(given_up, count):
            late = state.status[layer, missing[order[i]]] == IN_FLIGHT
            link_ns = float(state.late_left_ns) - load_ns if late else link_ns  # its copy is counted again below
            on_cpu[left] = state.cpu_ns[layer, tokens[order[i]]] if cpu else np.inf
            left += 1
        end_ns = soonest_ns(link_ns, load_ns, gpu_ns, on_cpu[:left], (state.num_demand - count) * gpu_ns)
        total = end_ns / max(load_ns, 1.0) + price * lost
        if given_up == 0 or total < least:
            best, least = given_up, total
    return best


@jitable
def replace_experts(state: State, missing: Places, given_up: Places, resident: NDArray[np.bool_]) -> None:
    """Let every token execute resident experts in place of those given up, its best rank choosing first."""
    gone = np.zeros(state.num_experts, np.bool_)
    for i in given_up:
        gone[missing[i]] = True
    used = np.zeros(state.num_experts, np.bool_)
    for token in range(state.num_tokens):
        mark_routed(state, token, used)
        for rank in range(state.token_ranks[token]):
            if gone[state.ids[token, rank]]:
                best = best_resident(state.scores[token, : state.num_experts], 0.0, resident, used)
                used[best] = True
                state.executed_ids[token, rank] = best
