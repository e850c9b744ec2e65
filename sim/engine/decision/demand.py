"""Compiled steps from the router's choice to the plan of a layer step: lookup, substitute, assign, outcomes."""

from __future__ import annotations

import numpy as np

from policies.state import ABSENT, CPU, DROPPED, IN_FLIGHT, LINK, LOW, MAX_LOOKAHEAD, RESIDENT, State
from sim.engine.decision.cache import Cache, Ids
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
from sim.engine.decision.host import serve
from sim.engine.decision.struct_views import core_jit


@core_jit
def load_layer(state: State, cache: Cache) -> None:
    """Copy one layer of the step that ``load`` gave into the state."""
    layer, ids, routed, executed = state.layer, cache.step_ids, state.ids, state.executed_ids
    tokens, ranks = ids.shape[0], ids.shape[2]
    for token in range(tokens):
        used = 0
        for rank in range(ranks):
            expert = ids[token, layer, rank]
            routed[token, rank] = executed[token, rank] = expert
            used += expert != DROPPED
        state.token_ranks[token] = used
    if cache.step_weights.shape[0] > 0:
        for token in range(tokens):
            for rank in range(ranks):
                state.weights[token, rank] = cache.step_weights[token, layer, rank]
    if cache.step_next_use.shape[0] > 0:
        for token in range(tokens):
            for rank in range(state.token_ranks[token]):
                state.next_use[layer, ids[token, layer, rank]] = cache.step_next_use[token, layer, rank]
    if cache.step_scores.shape[0] > 0:
        known, scores = cache.step_scores, state.scores
        for token in range(tokens):
            for expert in range(known.shape[2]):
                scores[token, expert] = known[token, layer, expert]
    state.num_lookahead = 0
    if cache.step_lookahead.shape[0] > 0:
        load_lookahead(state, cache, layer)


@core_jit
def load_lookahead(state: State, cache: Cache, layer: int) -> None:
    """Copy what is known of the next layers into the state."""
    known, lookahead, tokens = cache.step_lookahead, state.lookahead, state.num_tokens
    if layer < known.shape[1]:
        state.num_lookahead = min(known.shape[2], state.num_layers - 1 - layer, MAX_LOOKAHEAD)
    for ahead in range(state.num_lookahead):
        for token in range(tokens):
            for expert in range(known.shape[3]):
                lookahead[ahead, token, expert] = known[token, layer, ahead, expert]


@core_jit
def list_distinct(state: State, cache: Cache, ids: Ids, experts: Ids) -> int:
    """Distinct ids but DROPPED in order of their last occurrence -> their number; ``tokens_of`` counts tokens."""
    cache.tick += 1
    tick, seen, counts = cache.tick, cache.seen, cache.tokens_of
    size = 0
    for token in range(state.num_tokens - 1, -1, -1):
        for rank in range(state.num_ranks - 1, -1, -1):
            expert = ids[token, rank]
            if expert == DROPPED:
                continue
            if not 0 <= expert < counts.shape[0]:
                raise ValueError("a substitution rule chose an expert that the layer does not have")
            if seen[expert] != tick:
                seen[expert] = tick
                counts[expert] = 0
                experts[size] = expert
                size += 1
            counts[expert] += 1
    for i in range(size // 2):
        experts[i], experts[size - 1 - i] = experts[size - 1 - i], experts[i]
    return size


@core_jit
def runs_as_routed(state: State) -> bool:
    """Whether the substitution rule has left every choice as it was."""
    changed = 0
    for token in range(state.num_tokens):
        for rank in range(state.num_ranks):
            changed += state.executed_ids[token, rank] != state.ids[token, rank]
    return changed == 0


@core_jit
def sort_executed(state: State, cache: Cache) -> None:
    """Split executed experts into ready ones (first in the GPU queue) and missing ones, with their costs."""
    status, base, now = cache.status, state.layer * state.num_experts, state.now
    executed, tokens, served = state.executed, state.executed_tokens, cache.tokens_of
    runs_low, degraded, executed_at = cache.runs_low, state.degraded, cache.executed_at
    queue, absent = cache.gpu_queue, state.missing
    ready = missing = 0
    for i in range(state.num_executed):
        expert = executed[i]
        if served[expert] > state.num_tokens:
            raise ValueError("a substitution rule gave one token the same expert twice")
        executed_at[expert] = now
        tokens[i] = served[expert]
        runs_low[expert] = 0
        held_as = status[base + expert]
        if held_as == RESIDENT or (cache.has_low and held_as == LOW and degraded[expert]):
            runs_low[expert] = held_as == LOW
            queue[ready] = expert
            ready += 1
        elif held_as != IN_FLIGHT or cache.offers_late:
            runs_low[expert] = degraded[expert] if cache.has_low and held_as != IN_FLIGHT else 0
            absent[missing] = expert
            missing += 1
    cache.num_ready = ready
    state.num_missing = missing


@core_jit
def left_of_copy(state: State, cache: Cache) -> int:
    """What the one copy that is under way at a lookup still takes, on the link or paused between two chunks."""
    left_ns, chunks = 0, cache.paused_chunks
    if cache.link_left_ns > 0:
        left_ns, chunks = cache.link_left_ns, cache.chunks_left - 1
    if chunks > 0:
        left_ns += chunks * (state.load_ns[state.layer] // cache.num_chunks)
    return int(left_ns)


@core_jit
def price_missing(state: State, cache: Cache) -> None:
    """What assignment rules want to know of the missing experts; everything goes over the link at first."""
    layer = state.layer
    for i in range(state.num_executed):
        state.executed_gpu_ns[i] = cache.expert_ns[layer, state.executed_tokens[i]]
    for j in range(state.num_missing):
        expert = state.missing[j]
        tokens = cache.tokens_of[expert]
        state.missing_tokens[j] = tokens
        state.missing_importance[j] = -1.0
        state.missing_load_ns[j] = cache.low_load_ns[layer] if cache.runs_low[expert] else state.load_ns[layer]
        if cache.status[layer * state.num_experts + expert] == IN_FLIGHT:
            state.missing_load_ns[j] = left_of_copy(state, cache)
        state.missing_cpu_ns[j] = cache.cpu_ns[layer, tokens] if cache.cpu_ns.shape[0] > 0 else 0
        if cache.has_host and cache.in_host[layer * state.num_experts + expert] == 0:
            if cache.status[layer * state.num_experts + expert] != IN_FLIGHT:
                state.missing_load_ns[j] = cache.through_ns[layer]
            if cache.cpu_reads:
                state.missing_cpu_ns[j] += cache.read_ns[layer]
        state.missing_gpu_ns[j] = cache.expert_ns[layer, tokens]
        state.side[j], state.order[j] = LINK, j
    if cache.needs_importance:
        weigh_missing(state, cache)


@core_jit
def weigh_missing(state: State, cache: Cache) -> None:
    """Importance: highest gate score, or weight where the trace has no scores, of a token that executes the expert."""
    for j in range(state.num_missing):
        cache.seen[state.missing[j]] = -1 - j
    for token in range(state.num_tokens):
        for rank in range(state.num_ranks):
            expert = state.executed_ids[token, rank]
            if expert != DROPPED and cache.seen[expert] < 0:
                value = state.scores[token, expert] if state.has_scores else state.weights[token, rank]
                j = -1 - cache.seen[expert]
                if value > state.missing_importance[j]:
                    state.missing_importance[j] = value


@core_jit
def count_ranks(state: State, cache: Cache, as_routed: bool) -> None:
    """Count substituted and dropped (token, rank) pairs and sum the share of weight not executed as routed.

    What runs as routed but in low precision counts as not executed as routed, and by itself.
    """
    cache.lost[1] += state.num_tokens
    for token in range(state.num_tokens):
        cache.counts[N_ROUTED_RANKS] += state.token_ranks[token]
    if as_routed and cache.has_low == 0:
        return
    for token in range(state.num_tokens):
        lost, low, total = 0.0, 0.0, 0.0
        for rank in range(state.token_ranks[token], state.num_ranks):
            if state.executed_ids[token, rank] != DROPPED:
                raise ValueError("a substitution rule gave a token more experts than its router did")
        for rank in range(state.token_ranks[token]):
            routed, executed = state.ids[token, rank], state.executed_ids[token, rank]
            weight = state.scores[token, routed] if np.isnan(state.weights[token, rank]) else state.weights[token, rank]
            total += weight
            if executed == DROPPED:
                cache.counts[N_DROPPED_RANKS] += 1
                lost += weight
            elif executed != routed:
                cache.counts[N_SUBSTITUTED_RANKS] += 1
                cache.replaced_at[routed] = state.now
                lost += weight
            elif cache.runs_low[executed]:
                low += weight
            if executed != DROPPED:
                cache.counts[N_DEGRADED_RANKS] += cache.runs_low[executed]
        if total > 0.0:
            cache.lost[0] += (lost + low) / total
            cache.lost[2] += low / total


@core_jit
def settle_outcomes(state: State, cache: Cache) -> None:
    """Give every demanded expert exactly one outcome and count it; settle prefetches that were demanded.

    A missing expert is FETCH, CPU or DEGRADE if any token still executes it, else SUBSTITUTE if any token replaced it,
    else DROP.
    """
    base, now, demand, statuses = state.layer * state.num_experts, state.now, state.demand, cache.status
    outcomes, counts = cache.outcome, cache.counts
    executed_at, runs_low, prefetched = cache.executed_at, cache.runs_low, cache.prefetched
    for i in range(state.num_demand):
        expert = demand[i]
        key = base + expert
        status = statuses[key]
        runs = executed_at[expert] == now
        if status == RESIDENT or (status == LOW and runs and runs_low[expert]):
            outcome = HIT
        elif status == IN_FLIGHT and not (runs and cache.on_cpu_at[expert] == now):
            outcome = LATE
        elif runs:
            outcome = CPU_RUN if cache.on_cpu_at[expert] == now else DEGRADE if runs_low[expert] else FETCH
        else:
            outcome = SUBSTITUTE if cache.replaced_at[expert] == now else DROP
        if prefetched[key] and status != ABSENT:
            prefetched[key] = 0
            counts[N_PREFETCH_USED if status == RESIDENT else N_PREFETCH_LATE] += 1
        outcomes[i] = outcome
        counts[outcome] += 1
    counts[N_DEMANDED] += state.num_demand


@core_jit
def check_assignment(state: State) -> None:
    """Raise ValueError unless ``order`` is a permutation."""
    for i in range(state.num_missing):
        if not 0 <= state.order[i] < state.num_missing:
            raise ValueError("an assignment rule wrote an order that is not a permutation of the missing experts")
        for j in range(i):
            if state.order[i] == state.order[j]:
                raise ValueError("an assignment rule wrote an order that is not a permutation of the missing experts")


@core_jit
def mark_cpu(state: State, cache: Cache) -> None:
    """Note which missing experts the CPU computes: they need no slot."""
    for j in range(state.num_missing):
        if state.side[j] == CPU:
            cache.on_cpu_at[state.missing[j]] = state.now
            cache.runs_low[state.missing[j]] = 0


@core_jit
def queue_work(state: State, cache: Cache) -> None:
    """Fill the GPU queue (behind the ready ones: in flight, then link in serving order), CPU and demand queue."""
    base = state.layer * state.num_experts
    gpu, cpu = cache.num_ready, 0
    if cache.offers_late or gpu + state.num_missing < state.num_executed:
        for i in range(state.num_executed):
            expert = state.executed[i]
            if cache.status[base + expert] == IN_FLIGHT and cache.on_cpu_at[expert] != state.now:
                cache.gpu_queue[gpu] = expert
                gpu += 1
    missing, gpu_queue, demand_queue, copies = state.missing, cache.gpu_queue, cache.demand_queue, 0
    if cache.has_host:
        serve(state, cache, missing)
    for i in range(state.num_missing):
        j = cache.serving[i] if cache.has_host else state.order[i] if cache.has_assign else i
        expert = missing[j]
        if cache.has_assign and state.side[j] == CPU:
            cache.cpu_queue[cpu] = expert
            cpu += 1
        elif cache.status[base + expert] != IN_FLIGHT:
            gpu_queue[gpu] = demand_queue[copies] = expert
            gpu += 1
            copies += 1
    cache.demand_head, cache.demand_tail = 0, copies
    run_ns, compute_ns, served = cache.run_ns, cache.expert_ns, cache.tokens_of
    for i in range(gpu):
        expert = gpu_queue[i]
        run_ns[i] = compute_ns[state.layer, served[expert]] - cache.launch_ns
        if cache.has_low and cache.runs_low[expert]:
            run_ns[i] += cache.dequantise_ns[state.layer]
    cache.num_gpu, cache.num_cpu, cache.num_demand_copies = gpu, cpu, copies
    cache.may_release = (
        cache.overflows or cache.has_bypass or cache.is_static or cache.fetches_early or cache.after_step
    )
    cache.counts[N_EXECUTED] += state.num_executed
    cache.counts[N_RESIDENT_EXECUTED] += cache.num_ready
