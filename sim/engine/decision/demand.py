"""Compiled steps from the router's choice to the plan of a layer step: lookup, substitute, assign, outcomes."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.state import ABSENT, CPU, DROPPED, IN_FLIGHT, LINK, LOW, MAX_LOOKAHEAD, RESIDENT
from sim.engine.decision.counters import (
    CPU_RUN,
    DEGRADE,
    DROP,
    FETCH,
    HIT,
    LATE,
    N_DEGRADED_RANKS,
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
from sim.engine.decision.struct_views import core_jit


@core_jit
def load_layer(s: Any, m: Any) -> None:
    """Copy one layer of the step that ``load`` gave into the state."""
    layer, ids, routed, executed = s.layer, m.step_ids, s.ids, s.executed_ids
    tokens, ranks = ids.shape[0], ids.shape[2]
    for token in range(tokens):
        for rank in range(ranks):
            routed[token, rank] = executed[token, rank] = ids[token, layer, rank]
    if m.step_weights.shape[0] > 0:
        for token in range(tokens):
            for rank in range(ranks):
                s.weights[token, rank] = m.step_weights[token, layer, rank]
    if m.step_next_use.shape[0] > 0:
        for token in range(tokens):
            for rank in range(ranks):
                s.next_use[layer, ids[token, layer, rank]] = m.step_next_use[token, layer, rank]
    if m.step_scores.shape[0] > 0:
        known, scores = m.step_scores, s.scores
        for token in range(tokens):
            for expert in range(known.shape[2]):
                scores[token, expert] = known[token, layer, expert]
    s.num_lookahead = 0
    if m.step_lookahead.shape[0] > 0:
        load_lookahead(s, m, layer)


@core_jit
def load_lookahead(s: Any, m: Any, layer: int) -> None:
    """Copy what is known of the next layers into the state."""
    known, lookahead, tokens = m.step_lookahead, s.lookahead, s.num_tokens
    if layer < known.shape[1]:
        s.num_lookahead = min(known.shape[2], s.num_layers - 1 - layer, MAX_LOOKAHEAD)
    for ahead in range(s.num_lookahead):
        for token in range(tokens):
            for expert in range(known.shape[3]):
                lookahead[ahead, token, expert] = known[token, layer, ahead, expert]


@core_jit
def distinct(s: Any, m: Any, ids: Any, found: Any) -> int:
    """Distinct ids other than DROPPED in order of their last touch -> their number; ``tokens_of`` counts tokens."""
    m.tick += 1
    tick, seen, counts = m.tick, m.seen, m.tokens_of
    size = 0
    for token in range(s.num_tokens - 1, -1, -1):
        for rank in range(s.num_ranks - 1, -1, -1):
            expert = ids[token, rank]
            if expert == DROPPED:
                continue
            if not 0 <= expert < counts.shape[0]:
                raise ValueError("a substitution rule chose an expert that the layer does not have")
            if seen[expert] != tick:
                seen[expert] = tick
                counts[expert] = 0
                found[size] = expert
                size += 1
            counts[expert] += 1
    for i in range(size // 2):
        found[i], found[size - 1 - i] = found[size - 1 - i], found[i]
    return size


@core_jit
def sort_executed(s: Any, m: Any) -> None:
    """Split executed experts into ready ones (first in the GPU queue) and missing ones, with their costs."""
    status, base, now = m.status, s.layer * s.num_experts, s.now
    executed, tokens, served = s.executed, s.executed_tokens, m.tokens_of
    runs_low, degraded, executed_at = m.runs_low, s.degraded, m.executed_at
    queue, absent = m.gpu_queue, s.missing
    ready = missing = 0
    for i in range(s.num_executed):
        expert = executed[i]
        if served[expert] > s.num_tokens:
            raise ValueError("a substitution rule gave one token the same expert twice")
        executed_at[expert] = now
        tokens[i] = served[expert]
        runs_low[expert] = 0
        found = status[base + expert]
        if found == RESIDENT or (found == LOW and degraded[expert]):
            runs_low[expert] = found == LOW
            queue[ready] = expert
            ready += 1
        elif found != IN_FLIGHT:
            runs_low[expert] = degraded[expert]
            absent[missing] = expert
            missing += 1
    m.plan[0] = ready
    s.num_missing = missing


@core_jit
def price_missing(s: Any, m: Any) -> None:
    """What assignment rules want to know of the missing experts; everything goes over the link at first."""
    layer = s.layer
    for i in range(s.num_executed):
        s.executed_gpu_ns[i] = m.expert_ns[layer, s.executed_tokens[i]]
    for j in range(s.num_missing):
        expert = s.missing[j]
        tokens = m.tokens_of[expert]
        s.missing_tokens[j] = tokens
        s.missing_importance[j] = -1.0
        s.missing_load_ns[j] = m.low_load_ns[layer] if m.runs_low[expert] else s.load_ns[layer]
        s.missing_cpu_ns[j] = m.cpu_ns[layer, tokens] if m.cpu_ns.shape[0] > 0 else 0
        s.missing_gpu_ns[j] = m.expert_ns[layer, tokens]
        s.side[j], s.order[j] = LINK, j
    if m.needs_importance:
        weigh_missing(s, m)


@core_jit
def weigh_missing(s: Any, m: Any) -> None:
    """Importance: highest gate score, or weight where the trace has no scores, of a token that executes the expert."""
    for j in range(s.num_missing):
        m.seen[s.missing[j]] = -1 - j
    for token in range(s.num_tokens):
        for rank in range(s.num_ranks):
            expert = s.executed_ids[token, rank]
            if expert != DROPPED and m.seen[expert] < 0:
                value = s.scores[token, expert] if s.has_scores else s.weights[token, rank]
                j = -1 - m.seen[expert]
                if value > s.missing_importance[j]:
                    s.missing_importance[j] = value


@core_jit
def count_ranks(s: Any, m: Any) -> None:
    """Count substituted and dropped (token, rank) pairs and sum the share of weight not executed as routed."""
    m.lost[1] += s.num_tokens
    m.counts[N_ROUTED_RANKS] += s.num_tokens * s.num_ranks
    if m.substitute == 0:
        return
    for token in range(s.num_tokens):
        lost, total = 0.0, 0.0
        for rank in range(s.num_ranks):
            routed, executed = s.ids[token, rank], s.executed_ids[token, rank]
            weight = s.scores[token, routed] if np.isnan(s.weights[token, rank]) else s.weights[token, rank]
            total += weight
            if executed == DROPPED:
                m.counts[N_DROPPED_RANKS] += 1
                lost += weight
            elif executed != routed:
                m.counts[N_SUBSTITUTED_RANKS] += 1
                m.replaced_at[routed] = s.now
                lost += weight
            if executed != DROPPED:
                m.counts[N_DEGRADED_RANKS] += m.runs_low[executed]
        m.lost[0] += lost / total if total > 0.0 else 0.0


@core_jit
def settle_outcomes(s: Any, m: Any) -> None:
    """Give every demanded expert exactly one outcome and count it; settle prefetches that were demanded.

    A missing expert is FETCH, CPU or DEGRADE if any token still executes it, else SUBSTITUTE if any token replaced it,
    else DROP.
    """
    base, now, demand, statuses = s.layer * s.num_experts, s.now, s.demand, m.status
    outcomes, counts = m.outcome, m.counts
    executed_at, runs_low, prefetched = m.executed_at, m.runs_low, m.prefetched
    for i in range(s.num_demand):
        expert = demand[i]
        key = base + expert
        status = statuses[key]
        runs = executed_at[expert] == now
        if status == RESIDENT or (status == LOW and runs and runs_low[expert]):
            outcome = HIT
        elif status == IN_FLIGHT:
            outcome = LATE
        elif runs:
            outcome = CPU_RUN if m.on_cpu_at[expert] == now else DEGRADE if runs_low[expert] else FETCH
        else:
            outcome = SUBSTITUTE if m.replaced_at[expert] == now else DROP
        if prefetched[key] and status != ABSENT:
            prefetched[key] = 0
            counts[N_PREFETCH_USED if status == RESIDENT else N_PREFETCH_LATE] += 1
        outcomes[i] = outcome
        counts[outcome] += 1
    counts[N_DEMANDED] += s.num_demand


@core_jit
def check_assignment(s: Any) -> None:
    """Raise ValueError unless ``order`` is a permutation."""
    for i in range(s.num_missing):
        if not 0 <= s.order[i] < s.num_missing:
            raise ValueError("an assignment rule wrote an order that is not a permutation of the missing experts")
        for j in range(i):
            if s.order[i] == s.order[j]:
                raise ValueError("an assignment rule wrote an order that is not a permutation of the missing experts")


@core_jit
def mark_cpu(s: Any, m: Any) -> None:
    """Note which missing experts the CPU computes: they need no slot."""
    for j in range(s.num_missing):
        if s.side[j] == CPU:
            m.on_cpu_at[s.missing[j]] = s.now
            m.runs_low[s.missing[j]] = 0


@core_jit
def queue_work(s: Any, m: Any) -> None:
    """Fill the GPU queue (behind the ready ones: in flight, then link in serving order), CPU and demand queue."""
    base = s.layer * s.num_experts
    gpu, cpu = m.plan[0], 0
    if gpu + s.num_missing < s.num_executed:
        for i in range(s.num_executed):
            expert = s.executed[i]
            if m.status[base + expert] == IN_FLIGHT:
                m.gpu_queue[gpu] = expert
                gpu += 1
    missing, gpu_queue, demand_queue, copies = s.missing, m.gpu_queue, m.demand_queue, 0
    for i in range(s.num_missing):
        j = s.order[i] if m.assign else i
        expert = missing[j]
        if m.assign and s.side[j] == CPU:
            m.cpu_queue[cpu] = expert
            cpu += 1
        else:
            gpu_queue[gpu] = demand_queue[copies] = expert
            gpu += 1
            copies += 1
    m.demand_head, m.demand_tail = 0, copies
    run_ns, compute_ns, served = m.run_ns, m.expert_ns, m.tokens_of
    for i in range(gpu):
        expert = gpu_queue[i]
        run_ns[i] = compute_ns[s.layer, served[expert]] - m.launch_ns
        if m.runs_low[expert]:
            run_ns[i] += m.dequant_ns[s.layer]
    m.plan[1], m.plan[2], m.plan[3] = gpu, cpu, copies
    m.plan[4] = m.overflow or m.bypass or m.static or m.choose
    m.counts[N_EXECUTED] += s.num_executed
    m.counts[N_RESIDENT_EXECUTED] += m.plan[0]
