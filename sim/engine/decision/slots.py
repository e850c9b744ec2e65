"""Who gets a slot: victims, admission, staging, and how a copy finds its place. Compiled, no clock."""

from __future__ import annotations

import numpy as np

from policies.state import ABSENT, IN_FLIGHT, LOW, RESIDENT, State
from sim.engine.decision.cache import Cache
from sim.engine.decision.counters import N_BYPASSES, N_EVICTIONS, N_PREFETCH_WASTED, N_WRITTEN_BACK_BYTES
from sim.engine.decision.host import give_back
from sim.engine.decision.layout import Rules
from sim.engine.decision.struct_views import core_jit

NOBODY = 2**31 - 1
FORESEEN, PROMOTED = 1, 2
"""Values of ``Cache.queued`` and ``Cache.prefetched``: for the next time its layer runs, protected until that ends; for
later steps in general, and without protection."""


@core_jit
def find_victim(state: State, cache: Cache, rules: Rules, layer: int) -> int:
    """Lowest (priority, layer, expert) unshielded resident of ``layer``'s pool as layer * E + expert; -1 if none."""
    if cache.has_refresh:
        rules.refresh(rules.eviction, state, rules.eviction_memory, layer)
    pool = cache.pool_of[layer]
    members, status, shield, priorities = cache.members, cache.status, cache.shield, cache.priority
    best, lowest = NOBODY, np.inf
    for i in range(cache.member_count[pool]):  # without branches, which the processor could not foresee
        key = members[pool, i]
        priority = priorities[key]
        priority = -np.inf if np.isnan(priority) else priority  # not a number goes first, whatever the order
        lower = (priority < lowest) | ((priority == lowest) & (key < best))
        better = lower & (status[key] != IN_FLIGHT) & (shield[key] == 0)
        best = key if better else best
        lowest = priority if better else lowest
    return -1 if best == NOBODY else best


@core_jit
def reclaimable(cache: Cache, pool: int) -> int:
    """Bytes of a pool that could be evicted now."""
    total = 0
    for i in range(cache.member_count[pool]):
        key = cache.members[pool, i]
        if cache.status[key] != IN_FLIGHT and cache.shield[key] == 0:
            total += cache.held[key]
    return total


@core_jit
def victim_for(state: State, cache: Cache, rules: Rules, layer: int, size: int) -> int:
    """The next victim for ``size`` bytes of ``layer``; -1 if evicting everything allowed is not enough."""
    victim: int = find_victim(state, cache, rules, layer)
    if victim >= 0:
        pool = cache.pool_of[layer]
        short = cache.used[pool] + size - cache.capacity[pool]
        if cache.held[victim] < short and reclaimable(cache, pool) < short:
            return -1
    return victim


@core_jit
def join(cache: Cache, pool: int, key: int, size: int) -> None:
    """Count an expert among those that occupy a pool."""
    count = cache.member_count[pool]
    cache.members[pool, count] = key
    cache.place[key] = count
    cache.member_count[pool] = count + 1
    cache.held[key] = size
    cache.used[pool] += size


@core_jit
def leave(cache: Cache, pool: int, key: int) -> None:
    """Take an expert out of its pool."""
    last = cache.member_count[pool] - 1
    moved = cache.members[pool, last]
    cache.members[pool, cache.place[key]] = moved
    cache.place[moved] = cache.place[key]
    cache.member_count[pool] = last
    cache.used[pool] -= cache.held[key]
    cache.status[key] = ABSENT


@core_jit
def evict(state: State, cache: Cache, pool: int, victim: int) -> None:
    """Take a resident expert out of its pool; write it back to the host where the policy wants that."""
    leave(cache, pool, victim)
    cache.counts[N_EVICTIONS] += 1
    if cache.prefetched[victim] == PROMOTED:
        cache.prefetched[victim] = 0
        cache.counts[N_PREFETCH_WASTED] += 1
    if cache.write_back_ns.shape[0] > 0:
        layer = victim // state.num_experts
        cache.back_ns += cache.write_back_ns[
            layer if cache.held[victim] == cache.size[layer] else state.num_layers + layer
        ]
        cache.counts[N_WRITTEN_BACK_BYTES] += cache.held[victim]
        if cache.has_host:
            give_back(state, cache, victim)


@core_jit
def take_slot(state: State, cache: Cache, rules: Rules, layer: int, expert: int, size: int, prefetched: bool) -> None:
    """Give an expert whose copy starts its place in the pool."""
    key = layer * state.num_experts + expert
    cache.status[key] = IN_FLIGHT
    join(cache, cache.pool_of[layer], key, size)
    if cache.has_admit:
        rules.admit(rules.eviction, state, rules.eviction_memory, layer, expert, prefetched)


@core_jit
def stage(cache: Cache, expert: int) -> bool:
    """Take a staging slot for an expert of the current layer, if one is free."""
    if cache.staging_free == 0:
        return False
    cache.staging_free -= 1
    cache.staged[expert] = 1
    cache.copy_is_staged = 1
    return True


@core_jit
def place_demand(state: State, cache: Cache, rules: Rules, layer: int, expert: int) -> bool:
    """Find a slot for a demanded expert; False if it has to wait until something has been executed."""
    cache.copy_is_staged = 0
    pool = cache.pool_of[layer]
    if cache.transient[expert] or cache.is_static:
        return bool(stage(cache, expert))
    size = cache.low_size[layer] if cache.runs_low[expert] else cache.size[layer]
    key = layer * state.num_experts + expert
    low = cache.held[key] if cache.status[key] == LOW else 0  # bytes that its full version takes over
    # Above capacity the step keeps its most recent experts whatever the rule says: what it may evict would depend on
    # which experts have run by now, so that the clock would decide what stays.
    asks = cache.has_bypass and cache.overflows == 0 and cache.after_step == 0
    while cache.holds_overflow == 0 and cache.used[pool] - low + size > cache.capacity[pool]:
        victim = victim_for(state, cache, rules, layer, size - low)
        if victim < 0 or (cache.after_step and cache.dropped_at[victim] != state.now):
            return False if cache.holding_transient > 0 else bool(stage(cache, expert))
        if asks and refuses(state, cache, rules, expert, victim):
            if not stage(cache, expert):
                return False
            cache.counts[N_BYPASSES] += 1
            return True
        asks = False  # once a victim has gone the expert comes
        evict(state, cache, pool, victim)
    if low > 0:
        leave(cache, pool, key)
    take_slot(state, cache, rules, layer, expert, size, False)
    return True


@core_jit
def refuses(state: State, cache: Cache, rules: Rules, expert: int, victim: int) -> bool:
    """Whether the rule lets a missing expert bypass the cache rather than evict ``victim``."""
    layer, candidate = victim // state.num_experts, victim % state.num_experts
    return bool(rules.bypass(rules.eviction, state, rules.eviction_memory, expert, layer, candidate))


@core_jit
def place_prefetch(state: State, cache: Cache, rules: Rules, key: int, promoted: bool) -> bool:
    """Find a slot for a prefetched expert; False cancels it: it may not push out anything shielded."""
    cache.copy_is_staged = 0
    layer = key // state.num_experts
    pool, size = cache.pool_of[layer], cache.size[layer]
    if cache.status[key] == RESIDENT or cache.status[key] == IN_FLIGHT or size > cache.capacity[pool]:
        return False
    if cache.is_static:
        return False
    shield, low = cache.shield[key], cache.held[key] if cache.status[key] == LOW else 0
    cache.shield[key] = 1  # a low-precision version stays until the full one has a slot, and takes part of it
    while cache.used[pool] - low + size > cache.capacity[pool]:
        victim = victim_for(state, cache, rules, layer, size - low)
        if victim < 0:
            cache.shield[key] = shield
            return False
        evict(state, cache, pool, victim)
    if low > 0:
        leave(cache, pool, key)
    take_slot(state, cache, rules, layer, key % state.num_experts, size, True)
    cache.prefetched[key] = PROMOTED if promoted else FORESEEN
    if promoted:
        cache.shield[key] = shield
    else:
        cache.prefetched_count[layer] += 1
    return True
