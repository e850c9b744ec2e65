"""The short way of a decode step of one token under a policy that only evicts: decisions and times in one loop.

Without prediction, substitution, CPU, bypass or write-back the link is idle whenever a layer begins, every miss is
copied in turn and nothing else happens meanwhile, so that a layer step needs no events. Rules see the same state and
are called in the same order as by ``sim.engine.decision.core``; a step that may overflow the capacity takes the general
way. ``tests/sim/engine/test_engines_agree.py`` holds both to the same nanoseconds and decisions.

It is there for speed: on recorded routing of gpt-oss-20b under ``lru`` a layer step takes 96, 65 and 38 ns at 8, 16 and
24 of 32 slots, and 222, 154 and 116 ns without it, 2.3 to 3.0 times as long (seconds of one core, best of 7).
"""

from __future__ import annotations

from policies.state import ABSENT, IN_FLIGHT, RESIDENT, State
from sim.engine.clocks.clock import Clock
from sim.engine.clocks.storage import arrival, ask_storage
from sim.engine.decision.cache import Cache
from sim.engine.decision.counters import (
    FETCH,
    FULL,
    HIT,
    N_COPIED_BYTES,
    N_DEMAND_COPIES,
    N_DEMANDED,
    N_EVICTIONS,
    N_EXECUTED,
    N_FETCHES,
    N_HITS,
    N_RESIDENT_EXECUTED,
    N_ROUTED_RANKS,
)
from sim.engine.decision.host import serve
from sim.engine.decision.layout import Rules
from sim.engine.decision.slots import find_victim, join
from sim.engine.decision.struct_views import core_jit
from sim.machine.parts import ATTENTION, EXPERT, HOST, LAUNCH, LINK_WAIT, STORAGE_WAIT


@core_jit
def take_place(state: State, cache: Cache, rules: Rules, layer: int, expert: int) -> None:
    """Copy a missing expert into the cache: in its victim's place, or into a free one.

    The same as ``evict`` and ``take_slot``, which move one more key and cost 10 ns per layer step at 8 slots.
    """
    pool, size, key = cache.pool_of[layer], cache.size[layer], layer * state.num_experts + expert
    if cache.used[pool] + size > cache.capacity[pool]:
        victim = find_victim(state, cache, rules, layer)
        at = cache.place[victim]
        cache.members[pool, at] = key
        cache.place[key] = at
        cache.held[key] = size
        cache.status[victim] = ABSENT
        cache.counts[N_EVICTIONS] += 1
    else:
        join(cache, pool, key, size)
    cache.status[key] = IN_FLIGHT
    if cache.has_admit:
        rules.admit(rules.eviction, state, rules.eviction_memory, layer, expert, False)
    cache.status[key] = RESIDENT


@core_jit
def lean_reads(state: State, cache: Cache, rules: Rules, clock: Clock, lookup_ns: int, now_ns: int, run_ns: int) -> int:
    """Copy and run what a layer step misses where storage lies behind host memory -> when the last has run."""
    layer, now, missing = state.layer, state.now, state.missing
    copy_ns, lead_ns, piece_ns = clock.copy_ns[FULL, 0, layer], clock.lead_ns[layer], clock.piece_ns[layer]
    serve(state, cache, missing)
    for i in range(cache.num_reads):
        clock.ready_ns[cache.read_queue[i]] = ask_storage(clock, layer, lookup_ns)
    arrival_ns = lookup_ns
    for i in range(state.num_missing):
        expert = missing[cache.serving[i]]
        take_place(state, cache, rules, layer, expert)
        alone_ns = arrival_ns + copy_ns
        arrival_ns = alone_ns
        if cache.read_at[expert] == now:
            arrival_ns = arrival(alone_ns - copy_ns, copy_ns, clock.ready_ns[expert], lead_ns, piece_ns)
        if arrival_ns > now_ns:
            late_ns = min(arrival_ns - now_ns, arrival_ns - alone_ns)
            clock.parts[STORAGE_WAIT] += late_ns
            clock.parts[LINK_WAIT] += arrival_ns - now_ns - late_ns
            now_ns = arrival_ns
        now_ns += run_ns
    return int(now_ns)


@core_jit
def lean_step(state: State, cache: Cache, rules: Rules, clock: Clock, kv_tokens: int, pairs: int) -> None:
    """All layers of a decode step of one token that ``core.load`` and ``core.enter`` have announced."""
    ids, ranks, experts = cache.step_ids, state.num_ranks, state.num_experts
    weights, scores, next_use = cache.step_weights, cache.step_scores, cache.step_next_use
    routed, executed_ids, demand = state.ids, state.executed_ids, state.demand
    executed, missing = state.executed, state.missing
    status, shield, outcomes, seen_at = cache.status, cache.shield, cache.outcome, cache.executed_at
    tokens_of, executed_tokens, counts, parts = cache.tokens_of, state.executed_tokens, cache.counts, clock.parts
    attention, shared, copies, compute = clock.attention_ns, clock.shared_ns, clock.copy_ns, clock.expert_ns
    kv_ns = max(kv_tokens * clock.kv_ps_per_token, pairs * clock.pair_ps) // 1000
    call_ns, launch_ns = clock.call_ns, clock.expert_launch_ns
    begin_ns, end_ns = clock.before_lookup_ns, clock.after_experts_ns
    touch, eviction, memory = rules.touch, rules.eviction, rules.eviction_memory
    touches = cache.has_touch
    tiered = cache.has_host
    hits = fetches = wait_ns = compute_ns = dense_ns = copy_sum_ns = copied_bytes = 0
    now_ns, now = clock.now_ns, state.now
    state.num_lookahead = 0
    state.num_demand = state.num_executed = ranks
    for layer in range(state.num_layers):
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
                state.weights[0, rank] = weights[0, layer, rank]
        if next_use.shape[0] > 0:
            for rank in range(ranks):
                state.next_use[layer, ids[0, layer, rank]] = next_use[0, layer, rank]
        if scores.shape[0] > 0:
            for expert in range(experts):
                state.scores[0, expert] = scores[0, layer, expert]
        state.layer, state.now, state.num_missing = layer, now, absent
        if touches:
            touch(eviction, state, memory)
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
            copied_bytes += absent * cache.size[layer]
            if tiered:
                now_ns = lean_reads(state, cache, rules, clock, arrival_ns, now_ns, run_ns)
                absent = 0
            for i in range(absent):
                take_place(state, cache, rules, layer, missing[i])
                arrival_ns += copy_ns
                if arrival_ns > now_ns:
                    wait_ns += arrival_ns - now_ns
                    now_ns = arrival_ns
                now_ns += run_ns
        now_ns += end_ns
        for rank in range(ranks):
            shield[base + executed[rank]] = 0
    layers = state.num_layers
    clock.now_ns = now_ns
    clock.link_busy_ns += copy_sum_ns
    counts[N_COPIED_BYTES] += copied_bytes
    counts[N_HITS] += hits
    counts[N_FETCHES] += fetches
    counts[N_DEMAND_COPIES] += fetches
    counts[N_RESIDENT_EXECUTED] += hits
    counts[N_DEMANDED] += layers * ranks
    counts[N_EXECUTED] += layers * ranks
    counts[N_ROUTED_RANKS] += layers * ranks
    cache.lost[1] += layers
    parts[ATTENTION] += dense_ns
    parts[EXPERT] += compute_ns
    parts[LINK_WAIT] += wait_ns
    parts[LAUNCH] += layers * ranks * launch_ns
    parts[HOST] += fetches * call_ns
