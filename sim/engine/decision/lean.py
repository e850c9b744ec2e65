"""A decode step of one token under a policy that only evicts: the same decisions with nothing else to look after.

Without prediction, substitution, CPU, bypass or write-back the link is idle whenever a layer begins, every miss is
copied in turn and nothing else happens meanwhile, so that a layer step needs no events. Rules see the same state and
are asked in the same order as in ``sim.engine.decision.core``; what may overflow the capacity takes the general way.
"""

from __future__ import annotations

from typing import Any

from policies.state import ABSENT, IN_FLIGHT, RESIDENT
from sim.engine.decision.counters import (
    ATTENTION,
    EXPERT,
    FETCH,
    FULL,
    HIT,
    HOST,
    LAUNCH,
    LINK_WAIT,
    N_COPIED_BYTES,
    N_DEMAND_COPIES,
    N_DEMANDED,
    N_EVICTIONS,
    N_EXECUTED,
    N_FETCHES,
    N_HITS,
    N_RESIDENT_EXECUTED,
    N_ROUTED_RANKS,
    SYNC,
)
from sim.engine.decision.slots import find_victim, join
from sim.engine.decision.struct_views import core_jit


@core_jit
def take_place(s: Any, m: Any, r: Any, layer: int, expert: int) -> None:
    """Copy a missing expert into the cache: in its victim's place, or into a free one."""
    pool, size, key = m.pool_of[layer], m.size[layer], layer * s.num_experts + expert
    if m.used[pool] + size > m.capacity[pool]:
        victim = find_victim(s, m, r, layer)
        at = m.place[victim]
        m.members[pool, at] = key
        m.place[key] = at
        m.held[key] = size
        m.status[victim] = ABSENT
        m.counts[N_EVICTIONS] += 1
    else:
        join(m, pool, key, size)
    m.status[key] = IN_FLIGHT
    if m.admit:
        r.admit(r.eviction, s, r.eviction_memory, layer, expert, False)
    m.status[key] = RESIDENT


@core_jit
def lean_step(s: Any, m: Any, r: Any, c: Any, kv_tokens: int, pairs: int) -> None:
    """All layers of a decode step of one token that ``core.load`` and ``core.enter`` have announced."""
    ids, ranks, experts = m.step_ids, s.num_ranks, s.num_experts
    weights, scores, next_use = m.step_weights, m.step_scores, m.step_next_use
    routed, executed_ids, demand, executed, missing = s.ids, s.executed_ids, s.demand, s.executed, s.missing
    status, shield, outcomes, seen_at = m.status, m.shield, m.outcome, m.executed_at
    tokens_of, executed_tokens, counts, parts = m.tokens_of, s.executed_tokens, m.counts, c.parts
    attention, shared, copies, compute = c.attention_ns, c.shared_ns, c.copy_ns, c.expert_ns
    kv_ns = max(kv_tokens * c.kv_ps_per_token, pairs * c.pair_ps) // 1000
    call_ns, launch_ns, end_ns = c.call_ns, c.expert_launch_ns, c.sync_ns
    begin_ns = c.layer_launch_ns + c.readback_ns + c.host_ns
    touch, eviction, memory = r.touch, r.eviction, r.eviction_memory
    touches = m.touch
    hits = fetches = wait_ns = compute_ns = dense_ns = copy_sum_ns = copied_bytes = 0
    now_ns, now = c.now_ns, s.now
    s.num_lookahead = 0
    s.num_demand = s.num_executed = ranks
    for layer in range(s.num_layers):
        base = layer * experts
        now += 1
        absent = 0
        for rank in range(ranks):
            expert = ids[0, layer, rank]
            routed[0, rank] = executed_ids[0, rank] = demand[rank] = executed[rank] = expert
            tokens_of[expert] = executed_tokens[rank] = 1
            seen_at[expert] = now
            shield[base + expert] = 1
            misses = status[base + expert] != RESIDENT
            outcomes[rank] = FETCH if misses else HIT
            missing[absent] = expert
            absent += misses
        if weights.shape[0] > 0:
            for rank in range(ranks):
                s.weights[0, rank] = weights[0, layer, rank]
        if next_use.shape[0] > 0:
            for rank in range(ranks):
                s.next_use[layer, ids[0, layer, rank]] = next_use[0, layer, rank]
        if scores.shape[0] > 0:
            for expert in range(experts):
                s.scores[0, expert] = scores[0, layer, expert]
        s.layer, s.now, s.num_missing = layer, now, absent
        if touches:
            touch(eviction, s, memory)
        run_ns = launch_ns + compute[layer, 1]
        dense_ns += attention[layer, 1] + kv_ns
        compute_ns += shared[layer, 1] + ranks * compute[layer, 1]
        now_ns += attention[layer, 1] + kv_ns + begin_ns
        arrival_ns = now_ns
        now_ns += absent * call_ns + shared[layer, 1] + (ranks - absent) * run_ns
        hits += ranks - absent
        if absent > 0:
            copy_ns = copies[FULL, 0, layer]
            fetches += absent
            copy_sum_ns += absent * copy_ns
            copied_bytes += absent * m.size[layer]
            for i in range(absent):
                take_place(s, m, r, layer, missing[i])
                arrival_ns += copy_ns
                if arrival_ns > now_ns:
                    wait_ns += arrival_ns - now_ns
                    now_ns = arrival_ns
                now_ns += run_ns
        now_ns += end_ns
        for rank in range(ranks):
            shield[base + executed[rank]] = 0
    layers = s.num_layers
    c.now_ns = now_ns
    c.link_busy_ns += copy_sum_ns
    counts[N_COPIED_BYTES] += copied_bytes
    counts[N_HITS] += hits
    counts[N_FETCHES] += fetches
    counts[N_DEMAND_COPIES] += fetches
    counts[N_RESIDENT_EXECUTED] += hits
    counts[N_DEMANDED] += layers * ranks
    counts[N_EXECUTED] += layers * ranks
    counts[N_ROUTED_RANKS] += layers * ranks
    m.lost[1] += layers
    parts[ATTENTION] += dense_ns
    parts[EXPERT] += compute_ns
    parts[LINK_WAIT] += wait_ns
    parts[LAUNCH] += layers * (c.layer_launch_ns + ranks * launch_ns)
    parts[SYNC] += layers * (c.readback_ns + end_ns)
    parts[HOST] += layers * c.host_ns + fetches * call_ns
