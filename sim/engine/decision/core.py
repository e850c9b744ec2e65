"""The decision core: what happens to residency and queues, without a clock. Every engine drives these functions.

``load`` takes the router output of a step; ``begin`` turns one layer's demand into a plan; ``next_copy`` starts the
next copy on the link if there is one and finds it a slot; ``finish_copy`` makes it resident; ``finish_expert`` releases
what an expert held; ``end`` closes the layer step. A victim leaves when its replacement's copy starts. Capacity counts
resident and in-flight experts.
"""

from __future__ import annotations

import numpy as np

from policies.state import DECODE, DROPPED, IN_FLIGHT, LOW, PREFILL, RESIDENT, State
from sim.engine.decision.cache import Cache, Ids, Scores, Times
from sim.engine.decision.counters import (
    CHUNK,
    FULL,
    LOW_COPY,
    N_BYPASSES,
    N_COPIED_BYTES,
    N_DEMAND_COPIES,
    N_DEMANDED,
    N_EXECUTED,
    N_FETCHES,
    N_HITS,
    N_OVERFLOW_STEPS,
    N_PREFETCH_ABANDONED,
    N_PREFETCH_CANCELLED,
    N_PREFETCH_COPIES,
    N_PREFETCH_WASTED,
    N_RESIDENT_EXECUTED,
    N_ROUTED_RANKS,
)
from sim.engine.decision.demand import (
    check_assignment,
    count_ranks,
    left_of_copy,
    list_distinct,
    load_layer,
    mark_cpu,
    price_missing,
    queue_work,
    runs_as_routed,
    settle_outcomes,
    sort_executed,
)
from sim.engine.decision.host import look_up, take_out
from sim.engine.decision.layout import Rules
from sim.engine.decision.slots import (
    FORESEEN,
    NOBODY,
    PROMOTED,
    evict,
    find_victim,
    join,
    leave,
    place_demand,
    place_prefetch,
)
from sim.engine.decision.struct_views import borrow, core_jit

NEVER, ON_OVERFLOW, ALWAYS = range(3)
"""Which prompts go past the cache, see ``Cache.goes_past``."""
IDLE, WAIT, DEMAND_COPY, PREFETCH_COPY = range(4)
"""What ``next_copy`` did: nothing is queued; the next copy has no slot yet; a copy started or went on.

``Cache.copy_layer``, ``copy_expert``, ``copy_kind``, ``copy_is_staged`` and ``back_ns`` describe the copy."""


@core_jit
def fill(state: State, cache: Cache, rules: Rules, order: Ids) -> None:
    """Warm start: experts (keys layer * E + expert) in the given order, each if its pool still has room."""
    for key in order:
        layer, expert = key // state.num_experts, key % state.num_experts
        pool = cache.pool_of[layer]
        if cache.used[pool] + cache.size[layer] <= cache.capacity[pool]:
            cache.status[key] = RESIDENT
            join(cache, pool, key, cache.size[layer])
            rules.admit(rules.eviction, state, rules.eviction_memory, layer, expert, True)


@core_jit
def load(
    state: State, cache: Cache, ids: Ids, weights: Scores, scores: Scores, lookahead: Scores, next_use: Times
) -> None:
    """Begin a forward pass of B tokens; ``begin`` reads its layers from these arrays (shapes: see layout).

    The caller keeps them alive until the next ``load``.
    """
    cache.step_ids, cache.step_weights, cache.step_scores = borrow(ids), borrow(weights), borrow(scores)
    cache.step_lookahead, cache.step_next_use = borrow(lookahead), borrow(next_use)
    state.routed = cache.step_ids
    state.num_tokens, state.num_ranks = ids.shape[0], ids.shape[2]


@core_jit
def enter(state: State, cache: Cache, phase: int, group: int, requests: int) -> None:
    """Note which step begins: its phase, its lockstep batch and how many requests it is of."""
    state.phase, state.group, state.num_requests = phase, group, requests
    state.step += 1


@core_jit
def prepare(state: State, cache: Cache, rules: Rules, pool_bytes: int) -> None:
    """Give experts the memory that they have in this step (-1: as it was); see which way its prompt takes."""
    if pool_bytes >= 0:
        resize(state, cache, rules, pool_bytes)
    if cache.goes_past != NEVER:
        past = state.phase == PREFILL and (cache.goes_past == ALWAYS or exceeds(state, cache))
        cache.streamed = 1 if past and cache.streams else 0
        cache.is_static = 1 if past else cache.rule_is_static


@core_jit
def resize(state: State, cache: Cache, rules: Rules, pool_bytes: int) -> None:
    """Give every pool other bytes; what no longer fits leaves, by the eviction rule. A prefetch that is paused between
    two chunks is given up where nothing else can leave."""
    for pool in range(cache.capacity.shape[0]):
        cache.over_bytes = max(cache.over_bytes, cache.used[pool] - cache.capacity[pool])
        cache.capacity[pool] = pool_bytes
    for layer in range(state.num_layers):
        pool = cache.pool_of[layer]
        while cache.used[pool] > cache.capacity[pool]:
            victim = find_victim(state, cache, rules, layer)
            if victim >= 0:
                evict(state, cache, pool, victim)
            elif cache.paused_chunks > 0 and cache.pool_of[cache.paused_layer] == pool:
                abandon(state, cache)
            else:
                break
        cache.over_bytes = max(cache.over_bytes, cache.used[pool] - cache.capacity[pool])


@core_jit
def exceeds(state: State, cache: Cache) -> bool:
    """Whether any layer of the step demands more than its pool has."""
    ids, seen = cache.step_ids, cache.seen
    for layer in range(state.num_layers):
        cache.tick += 1
        left = cache.capacity[cache.pool_of[layer]]
        for token in range(ids.shape[0]):
            for rank in range(ids.shape[2]):
                expert = ids[token, layer, rank]
                if expert != DROPPED and seen[expert] != cache.tick:
                    seen[expert] = cache.tick
                    left -= cache.size[layer]
        if left < 0:
            return True
    return False


@core_jit
def stream_layer(state: State, cache: Cache, layer: int) -> None:
    """A layer of a prompt that is streamed past the cache: whole layers are copied, its experts run in order of their
    last use as routed. Rules see nothing of it."""
    state.layer = layer
    state.now += 1
    load_layer(state, cache)
    state.num_demand = state.num_executed = list_distinct(state, cache, state.ids, state.demand)
    base, counts, size = layer * state.num_experts, cache.counts, cache.size[layer]
    for i in range(state.num_demand):
        expert = state.demand[i]
        hit = cache.status[base + expert] == RESIDENT
        counts[N_HITS if hit else N_FETCHES] += 1
        counts[N_RESIDENT_EXECUTED] += hit
        counts[N_BYPASSES] += not hit
        cache.gpu_queue[i] = expert
        cache.run_ns[i] = cache.expert_ns[layer, cache.tokens_of[expert]] - cache.launch_ns
    for token in range(state.num_tokens):
        counts[N_ROUTED_RANKS] += state.token_ranks[token]
    counts[N_DEMANDED] += state.num_demand
    counts[N_EXECUTED] += state.num_demand
    counts[N_DEMAND_COPIES] += state.num_experts
    counts[N_COPIED_BYTES] += state.num_experts * size
    cache.lost[1] += state.num_tokens
    cache.num_gpu = state.num_demand


@core_jit
def void_copies(state: State, cache: Cache, staging_slots: int) -> None:
    """Void what is queued, on the link or held; the arrays of residency are the caller's to clear."""
    cache.demand_head = cache.demand_tail = cache.prefetch_head = cache.prefetch_tail = 0
    cache.chunks_left = cache.paused_chunks = cache.holding_transient = 0
    cache.staging_free = staging_slots


@core_jit
def drop_queued_prefetches(state: State, cache: Cache) -> None:
    """Cancel queued prefetches for the current layer: demand takes over, wrong ones are void."""
    kept = 0
    for i in range(cache.prefetch_head, cache.prefetch_tail):
        key = cache.prefetch_queue[i]
        if key // state.num_experts == state.layer:
            cache.queued[key] = 0
            cache.counts[N_PREFETCH_CANCELLED] += 1
        else:
            cache.prefetch_queue[kept] = key
            kept += 1
    cache.prefetch_head, cache.prefetch_tail = 0, kept


@core_jit
def unshield_residents(state: State, cache: Cache, layer: int) -> None:
    """The prediction for a layer is void once it begins; what was fetched for it stays protected until it ends."""
    first, stop = layer * state.num_experts, (layer + 1) * state.num_experts
    prefetched, shield = cache.prefetched[first:stop], cache.shield[first:stop]
    for expert in range(state.num_experts):
        shield[expert] = shield[expert] if prefetched[expert] == FORESEEN else 0


@core_jit
def pass_through(state: State, cache: Cache, expert: int) -> None:
    """Note that an executed expert may not stay: in a slot already, it has to release it once it has run."""
    cache.transient[expert] = 1
    status = cache.status[state.layer * state.num_experts + expert]
    if status in (RESIDENT, IN_FLIGHT) or (status == LOW and cache.runs_low[expert]):
        cache.holding_transient += 1


@core_jit
def shield_step(state: State, cache: Cache) -> None:
    """Protect what the step executes on the GPU; above capacity keep only its most recent experts.

    The rest is transient: in a slot already, it releases the slot once executed; missing, it passes through staging.
    """
    base, size, now = state.layer * state.num_experts, cache.size[state.layer], state.now
    room = cache.capacity[cache.pool_of[state.layer]]
    executed, shield, on_cpu_at, runs_low = state.executed, cache.shield, cache.on_cpu_at, cache.runs_low
    cache.holding_transient, cache.overflows, held = 0, 0, 0
    for i in range(state.num_executed - 1, -1, -1):
        expert = executed[i]
        if on_cpu_at[expert] == now:
            continue
        room -= cache.low_size[state.layer] if runs_low[expert] else size
        shield[base + expert] = 1
        if cache.is_static:
            continue
        if room < 0 and cache.holds_overflow == 1:
            held = 1
        elif room < 0:
            cache.overflows = 1
            if cache.after_step == 0:
                pass_through(state, cache, expert)
    cache.counts[N_OVERFLOW_STEPS] += max(cache.overflows, held)


@core_jit
def settle_retention(state: State, cache: Cache, rules: Rules) -> None:
    """Decide what stays once the step is over: drop the lowest (priority, layer, expert) until the rest fits.

    Candidates are what may be evicted, and what the step executes on the GPU, resident or missing. What a prefetch
    brings or protects stays.
    """
    layer, now, experts = state.layer, state.now, state.num_experts
    pool, base = cache.pool_of[layer], layer * experts
    if cache.has_refresh:
        rules.refresh(rules.eviction, state, rules.eviction_memory, layer)
    total = cache.used[pool]
    for i in range(state.num_missing):
        expert = state.missing[i]
        if cache.on_cpu_at[expert] != now and cache.status[base + expert] != IN_FLIGHT:
            total += arriving_size(state, cache, expert)
    while total > cache.capacity[pool]:
        lowest, worst = np.inf, NOBODY
        for i in range(cache.member_count[pool]):
            key = cache.members[pool, i]
            runs = key // experts == layer and cache.executed_at[key % experts] == now
            free = cache.shield[key] == 0 or (runs and cache.on_cpu_at[key % experts] != now)
            if free and cache.status[key] != IN_FLIGHT and cache.dropped_at[key] != now:
                lowest, worst = lower_of(cache, lowest, worst, key)
        for i in range(state.num_missing):
            key = base + state.missing[i]
            comes = cache.on_cpu_at[state.missing[i]] != now and cache.status[key] != IN_FLIGHT
            if comes and cache.dropped_at[key] != now:
                lowest, worst = lower_of(cache, lowest, worst, key)
        if worst == NOBODY:
            return
        cache.dropped_at[worst] = now
        expert = worst - base
        runs = 0 <= expert < experts and cache.executed_at[expert] == now and cache.on_cpu_at[expert] != now
        missing = (
            runs and cache.status[worst] != RESIDENT and not (cache.status[worst] == LOW and cache.runs_low[expert])
        )
        total -= arriving_size(state, cache, expert) if missing else cache.held[worst]
        if runs:
            pass_through(state, cache, expert)


@core_jit
def arriving_size(state: State, cache: Cache, expert: int) -> int:
    """Bytes by which a missing expert of the current layer would fill its pool further."""
    layer, key = state.layer, state.layer * state.num_experts + expert
    size = cache.low_size[layer] if cache.runs_low[expert] else cache.size[layer]
    return int(size - cache.held[key] if cache.status[key] == LOW else size)


@core_jit
def lower_of(cache: Cache, lowest: float, worst: int, key: int) -> tuple[float, int]:
    """The lower one of (priority, key)."""
    priority = cache.priority[key]
    priority = -np.inf if np.isnan(priority) else priority
    if priority < lowest or (priority == lowest and key < worst):
        return priority, key
    return lowest, worst


@core_jit
def predict_and_queue(state: State, cache: Cache, rules: Rules) -> None:
    """Let the policy predict and choose; queue what is neither present nor queued yet, shield what is present."""
    state.num_predicted, state.num_predicted_tokens, state.num_prefetch = 0, state.num_tokens, 0
    rules.predict(rules.prediction, state, rules.prediction_memory)
    if state.num_predicted > state.predicted.shape[0] or state.num_predicted_tokens > state.num_tokens:
        raise ValueError("a prediction rule set more layers or rows than it predicts")
    if cache.has_choose == 0:
        return
    estimate_window(state, cache)
    rules.choose(rules.prefetch, state, rules.prefetch_memory)
    if state.num_prefetch > state.prefetch_layer.shape[0]:
        raise ValueError("a prefetch rule wrote more experts than prefetch_expert holds")
    if cache.prefetch_head > 0:
        close_gap(cache)
    left_ns = state.window_ns
    if cache.link_idle:
        left_ns -= under_way_ns(state, cache)
    for i in range(state.num_prefetch):
        layer, expert = state.prefetch_layer[i], state.prefetch_expert[i]
        if layer <= state.layer and cache.admits:
            queue_promotion(state, cache, layer, expert)
            continue
        if not (state.layer < layer < state.num_layers and 0 <= expert < state.num_experts):
            raise ValueError("a prefetch rule chose an expert outside the later layers of the model")
        key = layer * state.num_experts + expert
        if cache.status[key] == RESIDENT or cache.status[key] == IN_FLIGHT:  # may not be evicted for another prefetch
            cache.shield[key] = 1
            cache.prefetched_count[layer] += 1
        elif cache.queued[key] == 0:
            if cache.link_idle:
                left_ns -= state.load_ns[layer]
                if left_ns < 0:
                    return
            queue_before_promotions(cache, key)


@core_jit
def foresee(state: State, cache: Cache, rules: Rules) -> None:
    """Let the policy predict and choose for the first layers of a step that verifies drafts, ahead of all of them."""
    if cache.foresees == 0 or state.phase != DECODE or state.num_tokens == state.num_requests:
        return
    before, state.layer = state.layer, -1
    predict_and_queue(state, cache, rules)
    state.layer = before


@core_jit
def promote(state: State, cache: Cache, rules: Rules) -> None:
    """Let a rule of background admission choose; queue what is neither present nor queued yet."""
    state.num_prefetch = 0
    rules.choose(rules.prefetch, state, rules.prefetch_memory)
    if state.num_prefetch > state.prefetch_layer.shape[0]:
        raise ValueError("a prefetch rule wrote more experts than prefetch_expert holds")
    if cache.prefetch_head > 0:
        close_gap(cache)
    for i in range(state.num_prefetch):
        queue_promotion(state, cache, state.prefetch_layer[i], state.prefetch_expert[i])


@core_jit
def queue_before_promotions(cache: Cache, key: int) -> None:
    """Queue an expert that the next run of its layer may want, behind others like it."""
    place, queue = cache.prefetch_tail, cache.prefetch_queue
    while place > cache.prefetch_head and cache.queued[queue[place - 1]] == PROMOTED:
        queue[place] = queue[place - 1]
        place -= 1
    queue[place] = key
    cache.queued[key] = FORESEEN
    cache.prefetch_tail += 1


@core_jit
def queue_promotion(state: State, cache: Cache, layer: int, expert: int) -> None:
    """Queue an expert for later steps of its layer, unless it is present or queued."""
    if not (0 <= layer < state.num_layers and 0 <= expert < state.num_experts):
        raise ValueError("a prefetch rule chose an expert that the model does not have")
    key = layer * state.num_experts + expert
    if cache.status[key] != RESIDENT and cache.status[key] != IN_FLIGHT and cache.queued[key] == 0:
        cache.queued[key] = PROMOTED
        cache.prefetch_queue[cache.prefetch_tail] = key
        cache.prefetch_tail += 1


@core_jit
def under_way_ns(state: State, cache: Cache) -> int:
    """What prefetches that are on the link, paused or queued will take."""
    total = 0
    if cache.link_left_ns > 0:
        total += cache.link_left_ns
    if cache.paused_chunks > 0:
        total += cache.paused_chunks * (state.load_ns[cache.paused_layer] // cache.num_chunks)
    for i in range(cache.prefetch_head, cache.prefetch_tail):
        total += state.load_ns[cache.prefetch_queue[i] // state.num_experts]
    return int(total)


@core_jit
def close_gap(cache: Cache) -> None:
    """Move what is still queued to the start of the prefetch queue, which has room for every expert once."""
    kept = cache.prefetch_tail - cache.prefetch_head
    for i in range(kept):
        cache.prefetch_queue[i] = cache.prefetch_queue[cache.prefetch_head + i]
    cache.prefetch_head, cache.prefetch_tail = 0, kept


@core_jit
def estimate_window(state: State, cache: Cache) -> None:
    """Expected idle time of the link until the next lookup: the layer's GPU time minus its demand copies.

    At the end of a layer only what is left until the next lookup.
    """
    state.window_ns = 0
    if state.layer < 0:
        return
    if cache.predicts_at_end and cache.gap_ns.shape[0] > 0:
        state.window_ns = cache.gap_ns[state.layer]
    elif cache.layer_ns.shape[0] > 0:
        window = cache.layer_ns[state.layer]
        if state.num_tokens == 1:
            window += cache.num_gpu * cache.expert_ns[state.layer, 1]
        for i in range(cache.num_gpu if state.num_tokens > 1 else 0):
            window += cache.expert_ns[state.layer, cache.tokens_of[cache.gpu_queue[i]]]
        state.window_ns = max(0, window - cache.demand_tail * state.load_ns[state.layer])


@core_jit
def begin(state: State, cache: Cache, rules: Rules, layer: int) -> None:
    """Start a layer step: look up, substitute, assign, touch, queue demand copies, then prefetches."""
    state.layer = layer
    state.now += 1
    state.link_left_ns, state.late_left_ns = cache.link_left_ns, left_of_copy(state, cache)
    cache.stops_copy = 0
    if cache.prefetch_tail > cache.prefetch_head:
        drop_queued_prefetches(state, cache)
    if cache.prefetched_count[layer] > 0:
        unshield_residents(state, cache, layer)
    pool = cache.pool_of[layer]
    state.free_slots = max(0, cache.capacity[pool] - cache.used[pool]) // cache.size[layer]
    load_layer(state, cache)
    state.num_demand = list_distinct(state, cache, state.ids, state.demand)
    if cache.has_low:
        state.degraded[:] = 0
    if cache.has_substitute:
        rules.substitute(rules.substitution, state, rules.substitution_memory)
    as_routed = cache.has_substitute == 0 or runs_as_routed(state)
    if as_routed:
        state.num_executed = state.num_demand
        for i in range(state.num_demand):
            state.executed[i] = state.demand[i]
    else:
        state.num_executed = list_distinct(state, cache, state.executed_ids, state.executed)
    sort_executed(state, cache)
    if cache.has_assign and state.num_missing > 0:
        price_missing(state, cache)
        rules.assign(rules.assignment, state, rules.assignment_memory)
        check_assignment(state)
        mark_cpu(state, cache)
    count_ranks(state, cache, as_routed)
    settle_outcomes(state, cache)
    here = cache.link_left_ns > 0 and cache.copy_layer == layer
    if cache.cancels_late and here and not (cache.copy_promotes or waits_for(state, cache, cache.copy_expert)):
        stop_copy(state, cache)
    shield_step(state, cache)
    if cache.has_touch:
        rules.touch(rules.eviction, state, rules.eviction_memory)
    if cache.after_step and cache.is_static == 0:
        settle_retention(state, cache, rules)
    queue_work(state, cache)
    if (cache.has_predict or cache.admits) and cache.predicts_at_end == 0:
        predict_and_queue(state, cache, rules)


@core_jit
def waits_for(state: State, cache: Cache, expert: int) -> bool:
    """Whether the GPU executes an expert of the current layer in this step."""
    return bool(cache.executed_at[expert] == state.now and cache.on_cpu_at[expert] != state.now)


@core_jit
def stop_copy(state: State, cache: Cache) -> None:
    """Give up the prefetch that is on the link: its bytes until now are copied in vain, its slot is free."""
    left = chunk_bytes(cache) * min(cache.link_left_ns, cache.link_copy_ns) // max(cache.link_copy_ns, 1)
    cache.counts[N_COPIED_BYTES] -= left
    give_up(state, cache, cache.copy_layer, cache.copy_expert)
    cache.chunks_left = cache.link_left_ns = 0
    cache.stops_copy = 1


@core_jit
def resume(state: State, cache: Cache) -> int:
    """Go on with the paused prefetch."""
    cache.copy_layer, cache.copy_expert = cache.paused_layer, cache.paused_expert
    cache.chunks_left, cache.copy_promotes = cache.paused_chunks, cache.paused_promotes
    cache.paused_chunks, cache.copy_kind, cache.copy_is_staged = 0, CHUNK, 0
    count_chunk(cache)
    return PREFETCH_COPY


@core_jit
def count_chunk(cache: Cache) -> None:
    """Count the bytes of the chunk that starts; the last one carries the remainder."""
    cache.counts[N_COPIED_BYTES] += chunk_bytes(cache)


@core_jit
def chunk_bytes(cache: Cache) -> int:
    """Bytes of the chunk that is on the link, of the whole expert where it comes in one."""
    size = cache.size[cache.copy_layer]
    chunk = size // cache.num_chunks
    return int(size - (cache.num_chunks - 1) * chunk if cache.chunks_left == 1 else chunk)


@core_jit
def give_up(state: State, cache: Cache, layer: int, expert: int) -> None:
    """Take an expert whose prefetch ends unfinished out of its slot."""
    key = layer * state.num_experts + expert
    leave(cache, cache.pool_of[layer], key)
    cache.shield[key] = 0
    if cache.prefetched[key]:
        cache.prefetched_count[layer] -= cache.prefetched[key] == FORESEEN
        cache.prefetched[key] = 0
        cache.counts[N_PREFETCH_ABANDONED] += 1


@core_jit
def abandon(state: State, cache: Cache) -> None:
    """Give up the paused prefetch: its layer came and does not wait for it."""
    give_up(state, cache, cache.paused_layer, cache.paused_expert)
    cache.paused_chunks = 0


@core_jit
def next_copy(state: State, cache: Cache, rules: Rules) -> int:
    """Start the next copy, demand before prefetch, each first in first out.

    A prefetch paused between two chunks goes on first if the current layer waits for it, else once no demand is left;
    one that was meant for this layer and is not waited for is given up, a promotion is not.
    Returns IDLE, WAIT, DEMAND_COPY or PREFETCH_COPY.
    """
    cache.back_ns = 0
    if cache.paused_chunks > 0:
        here = cache.paused_layer == state.layer
        if here and waits_for(state, cache, cache.paused_expert):
            return resume(state, cache)
        wanted = cache.shield[cache.paused_layer * state.num_experts + cache.paused_expert] != 0
        if cache.paused_promotes == 0 and (here or not wanted):
            abandon(state, cache)
    if cache.demand_head < cache.demand_tail:
        expert = cache.demand_queue[cache.demand_head]
        if not place_demand(state, cache, rules, state.layer, expert):
            return WAIT
        cache.demand_head += 1
        cache.copy_layer, cache.copy_expert, cache.chunks_left, cache.copy_promotes = state.layer, expert, 1, 0
        low = cache.runs_low[expert]
        cache.copy_kind = LOW_COPY if low else FULL
        cache.copy_is_read = 1 if cache.has_host and cache.read_at[expert] == state.now else 0
        cache.counts[N_DEMAND_COPIES] += 1
        cache.counts[N_COPIED_BYTES] += cache.low_size[state.layer] if low else cache.size[state.layer]
        return DEMAND_COPY
    if cache.paused_chunks > 0:
        return resume(state, cache)
    while cache.prefetch_head < cache.prefetch_tail:
        key = cache.prefetch_queue[cache.prefetch_head]
        promoted = cache.queued[key] == PROMOTED
        cache.prefetch_head += 1
        cache.queued[key] = 0
        if place_prefetch(state, cache, rules, key, promoted):
            cache.copy_promotes = 1 if promoted else 0
            cache.copy_layer, cache.copy_expert = key // state.num_experts, key % state.num_experts
            cache.chunks_left, cache.copy_kind = cache.num_chunks, CHUNK if cache.num_chunks > 1 else FULL
            cache.counts[N_PREFETCH_COPIES] += 1
            count_chunk(cache)
            cache.copy_is_read = 1 if cache.has_host and look_up(state, cache, key) else 0
            return PREFETCH_COPY
        cache.counts[N_PREFETCH_CANCELLED] += 1
    return IDLE


@core_jit
def finish_copy(state: State, cache: Cache) -> int:
    """What was on the link has arrived -> 1 if the expert is whole (resident unless staged), 0 if chunks are left."""
    cache.chunks_left -= 1
    if cache.chunks_left > 0:
        cache.paused_layer, cache.paused_expert = cache.copy_layer, cache.copy_expert
        cache.paused_chunks, cache.paused_promotes = cache.chunks_left, cache.copy_promotes
        return 0
    if cache.copy_is_staged == 0:
        key = cache.copy_layer * state.num_experts + cache.copy_expert
        cache.status[key] = LOW if cache.copy_kind == LOW_COPY else RESIDENT
        if cache.host_exclusive and cache.in_host[key]:
            take_out(state, cache, key)
    return 1


@core_jit
def finish_expert(state: State, cache: Cache, expert: int) -> None:
    """The GPU has executed an expert of the current layer: release its staging slot, or the slot it may not keep."""
    if cache.staged[expert]:
        cache.staged[expert] = 0
        cache.staging_free += 1
    elif cache.transient[expert]:
        cache.shield[state.layer * state.num_experts + expert] = 0
        cache.holding_transient -= 1


@core_jit
def trim(state: State, cache: Cache, rules: Rules, layer: int) -> None:
    """Evict down to the capacity after a step that held more, sparing the step itself."""
    pool = cache.pool_of[layer]
    while cache.used[pool] > cache.capacity[pool]:
        victim = find_victim(state, cache, rules, layer)
        if victim < 0:
            break
        evict(state, cache, pool, victim)


@core_jit
def waste(state: State, cache: Cache, layer: int) -> None:
    """Prefetched experts of the layer that were not demanded were wasted, but for promotions; all lose their shield."""
    first, stop = layer * state.num_experts, (layer + 1) * state.num_experts
    prefetched, shield, wasted = cache.prefetched[first:stop], cache.shield[first:stop], 0
    for expert in range(state.num_experts):
        wasted += prefetched[expert] == FORESEEN
        prefetched[expert] = PROMOTED if prefetched[expert] == PROMOTED else 0
        shield[expert] = 0
    cache.counts[N_PREFETCH_WASTED] += wasted
    cache.prefetched_count[layer] = 0


@core_jit
def end(state: State, cache: Cache, rules: Rules) -> None:
    """Close the layer step: late predictions, held overflow, wasted prefetches, shields."""
    layer, base = state.layer, state.layer * state.num_experts
    if (cache.has_predict or cache.admits) and cache.predicts_at_end:
        predict_and_queue(state, cache, rules)
    if cache.promotes:
        promote(state, cache, rules)
    if cache.holds_overflow:
        trim(state, cache, rules, layer)
    executed, shield, transient = state.executed, cache.shield, cache.transient
    for i in range(state.num_executed):
        shield[base + executed[i]] = 0
        transient[executed[i]] = 0
    if cache.prefetched_count[layer] > 0:
        waste(state, cache, layer)
