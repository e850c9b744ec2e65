"""Compiled steps from the router's choice to the plan of a layer step: lookup, substitute, assign, outcomes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from policies.state import ABSENT, CPU, DROPPED, IN_FLIGHT, LINK, RESIDENT
from sim.engine.counters import (
    CPU_RUN,
    DROP,
    FETCH,
    HIT,
    LATE,
    N_DEMANDED,
    N_DROPPED_RANKS,
    N_EXECUTED,
    N_PREFETCH_LATE,
    N_PREFETCH_USED,
    N_RESIDENT_EXECUTED,
    N_ROUTED_RANKS,
    N_SUBSTITUTED_RANKS,
    SUBSTITUTE,
)


@njit(cache=True)
def load_step(s: Any, ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any) -> None:
    """Copy one layer of a step into the state: ids, weights [B, L, K], scores [B, L, E], lookahead [B, L-1, E]."""
    layer = s.layer
    s.num_tokens, s.num_ranks = ids.shape[0], ids.shape[2]
    for token in range(s.num_tokens):
        for rank in range(s.num_ranks):
            s.ids[token, rank] = s.executed_ids[token, rank] = ids[token, layer, rank]
            s.weights[token, rank] = weights[token, layer, rank] if weights.shape[0] > 0 else np.nan
            if next_use.shape[0] > 0:
                s.next_use[layer, ids[token, layer, rank]] = next_use[token, layer, rank]
        if scores.shape[0] > 0:
            s.scores[token, :] = scores[token, layer, :]
        if layer < lookahead.shape[1]:
            s.lookahead[0, token, :] = lookahead[token, layer, :]
    s.num_lookahead = 1 if layer < lookahead.shape[1] else 0
    s.routed = ids
    s.degraded[:] = 0


@njit(cache=True)
def distinct(ids: Any, num_tokens: int, num_ranks: int, seen: Any, found: Any, counts: Any) -> int:
    """Distinct ids other than DROPPED in order of their last touch -> their number; ``counts`` [E] = tokens of each."""
    counts[:] = 0
    seen[:] = 0
    size = 0
    for token in range(num_tokens - 1, -1, -1):
        for rank in range(num_ranks - 1, -1, -1):
            expert = ids[token, rank]
            if expert == DROPPED:
                continue
            if not 0 <= expert < counts.shape[0]:
                raise ValueError("a substitution rule chose an expert that the layer does not have")
            counts[expert] += 1
            if seen[expert] == 0:
                seen[expert] = 1
                found[size] = expert
                size += 1
    for i in range(size // 2):
        found[i], found[size - 1 - i] = found[size - 1 - i], found[i]
    return size


@njit(cache=True)
def find_missing(s: Any, m: Any) -> None:
    """List executed experts that are neither resident nor in flight, with importance and costs for assignment."""
    layer = s.layer
    s.num_missing = 0
    for i in range(s.num_executed):
        expert = s.executed[i]
        s.executed_tokens[i] = m.tokens_of[expert]
        if s.status[layer, expert] != ABSENT:
            continue
        j = s.num_missing
        s.missing[j] = expert
        s.missing_importance[j] = importance(s, expert)
        s.missing_load_ns[j] = m.load_ns[layer]
        s.missing_tokens[j] = m.tokens_of[expert]
        s.missing_cpu_ns[j] = m.cpu_ns[layer, m.tokens_of[expert]] if m.cpu_ns.shape[0] > 0 else 0
        s.side[j], s.order[j] = LINK, j
        s.num_missing += 1


@njit(cache=True)
def importance(s: Any, expert: int) -> float:
    """Highest gate score, or router weight where the trace has no scores, that a token executing it gives an expert."""
    best = np.float32(-1.0)
    for token in range(s.num_tokens):
        for rank in range(s.num_ranks):
            if s.executed_ids[token, rank] == expert:
                value = s.scores[token, expert] if s.has_scores else s.weights[token, rank]
                if value > best:
                    best = value
    return float(best)


@njit(cache=True)
def count_ranks(s: Any, m: Any) -> None:
    """Count substituted and dropped (token, rank) pairs and sum the share of weight not executed as routed."""
    for token in range(s.num_tokens):
        lost, total = 0.0, 0.0
        for rank in range(s.num_ranks):
            routed, executed = s.ids[token, rank], s.executed_ids[token, rank]
            weight = s.scores[token, routed] if np.isnan(s.weights[token, rank]) else s.weights[token, rank]
            total += weight
            if executed != routed:
                lost += weight
                m.counts[N_DROPPED_RANKS if executed == DROPPED else N_SUBSTITUTED_RANKS] += 1
        m.lost[0] += lost / total if total > 0.0 else 0.0
    m.lost[1] += s.num_tokens
    m.counts[N_ROUTED_RANKS] += s.num_tokens * s.num_ranks


@njit(cache=True)
def replaced_by(s: Any, expert: int) -> int:
    """What became of a demanded expert: FETCH if any token still executes it, else SUBSTITUTE, else DROP."""
    result = DROP
    for token in range(s.num_tokens):
        for rank in range(s.num_ranks):
            if s.ids[token, rank] == expert:
                if s.executed_ids[token, rank] == expert:
                    return FETCH
                if s.executed_ids[token, rank] != DROPPED:
                    result = SUBSTITUTE
    return result


@njit(cache=True)
def settle_outcomes(s: Any, m: Any) -> None:
    """Give every demanded expert exactly one outcome and count it; settle prefetches that were demanded."""
    layer = s.layer
    for i in range(s.num_demand):
        expert = s.demand[i]
        status = s.status[layer, expert]
        if status == RESIDENT:
            outcome = HIT
        elif status == IN_FLIGHT:
            outcome = LATE
        else:
            outcome = replaced_by(s, expert)
            if outcome == FETCH:
                for j in range(s.num_missing):
                    if s.missing[j] == expert and s.side[j] == CPU:
                        outcome = CPU_RUN
        if m.prefetched[layer, expert] and status != ABSENT:
            m.prefetched[layer, expert] = 0
            m.counts[N_PREFETCH_USED if status == RESIDENT else N_PREFETCH_LATE] += 1
        m.outcome[i] = outcome
        m.counts[outcome] += 1
    m.counts[N_DEMANDED] += s.num_demand


@njit(cache=True)
def queue_work(s: Any, m: Any) -> None:
    """Fill the GPU queue (resident, then in flight, then link in serving order), the CPU and the demand queue."""
    layer = s.layer
    gpu, cpu = 0, 0
    for status in (RESIDENT, IN_FLIGHT):
        for i in range(s.num_executed):
            expert = s.executed[i]
            if s.status[layer, expert] == status:
                m.gpu_queue[gpu] = expert
                gpu += 1
        if status == RESIDENT:
            m.plan[0] = gpu
    m.demand_head, m.demand_tail = 0, 0
    for i in range(s.num_missing):
        if not 0 <= s.order[i] < s.num_missing:
            raise ValueError("an assignment rule wrote an order that is not a permutation of the missing experts")
        expert = s.missing[s.order[i]]
        if s.side[s.order[i]] == CPU:
            m.cpu_queue[cpu] = expert
            cpu += 1
        else:
            m.gpu_queue[gpu] = m.demand_queue[m.demand_tail] = expert
            gpu += 1
            m.demand_tail += 1
    m.plan[1], m.plan[2], m.plan[3], m.plan[4] = gpu, cpu, m.demand_tail, m.holding_transient
    m.counts[N_EXECUTED] += s.num_executed
    m.counts[N_RESIDENT_EXECUTED] += m.plan[0]
