"""Who gets a slot: victims, admission, staging, and how a copy finds its place. Compiled, no clock."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.state import ABSENT, IN_FLIGHT, LOW, RESIDENT
from sim.engine.decision.counters import N_BYPASSES, N_EVICTIONS, N_WRITTEN_BACK_BYTES
from sim.engine.decision.struct_views import core_jit

NOBODY = 2**31 - 1


@core_jit
def find_victim(s: Any, m: Any, r: Any, layer: int) -> int:
    """Lowest (priority, layer, expert) unshielded resident of ``layer``'s pool as layer * E + expert; -1 if none."""
    if m.refresh:
        r.refresh(r.eviction, s, r.eviction_memory, layer)
    pool = m.pool_of[layer]
    members, status, shield, priorities = m.members, m.status, m.shield, m.priority
    best, lowest = NOBODY, np.inf
    for i in range(m.member_count[pool]):  # without branches, which the processor could not foresee
        key = members[pool, i]
        priority = priorities[key]
        priority = -np.inf if priority != priority else priority  # not a number goes first, whatever the order
        lower = (priority < lowest) | ((priority == lowest) & (key < best))
        better = lower & (status[key] != IN_FLIGHT) & (shield[key] == 0)
        best = key if better else best
        lowest = priority if better else lowest
    return -1 if best == NOBODY else best


@core_jit
def reclaimable(m: Any, pool: int) -> int:
    """Bytes of a pool that could be evicted now."""
    total = 0
    for i in range(m.member_count[pool]):
        key = m.members[pool, i]
        if m.status[key] != IN_FLIGHT and m.shield[key] == 0:
            total += m.held[key]
    return total


@core_jit
def victim_for(s: Any, m: Any, r: Any, layer: int, size: int) -> int:
    """The next victim for ``size`` bytes of ``layer``; -1 if evicting everything allowed is not enough."""
    victim: int = find_victim(s, m, r, layer)
    if victim >= 0:
        pool = m.pool_of[layer]
        short = m.used[pool] + size - m.capacity[pool]
        if m.held[victim] < short and reclaimable(m, pool) < short:
            return -1
    return victim


@core_jit
def join(m: Any, pool: int, key: int, size: int) -> None:
    """Count an expert among those that occupy a pool."""
    count = m.member_count[pool]
    m.members[pool, count] = key
    m.place[key] = count
    m.member_count[pool] = count + 1
    m.held[key] = size
    m.used[pool] += size


@core_jit
def leave(m: Any, pool: int, key: int) -> None:
    """Take an expert out of its pool."""
    last = m.member_count[pool] - 1
    moved = m.members[pool, last]
    m.members[pool, m.place[key]] = moved
    m.place[moved] = m.place[key]
    m.member_count[pool] = last
    m.used[pool] -= m.held[key]
    m.status[key] = ABSENT


@core_jit
def evict(s: Any, m: Any, pool: int, victim: int) -> None:
    """Take a resident expert out of its pool, home to the host where the policy writes victims back."""
    leave(m, pool, victim)
    m.counts[N_EVICTIONS] += 1
    if m.write_back_ns.shape[0] > 0:
        layer = victim // s.num_experts
        m.back_ns += m.write_back_ns[layer if m.held[victim] == m.size[layer] else s.num_layers + layer]
        m.counts[N_WRITTEN_BACK_BYTES] += m.held[victim]


@core_jit
def take_slot(s: Any, m: Any, r: Any, layer: int, expert: int, size: int, prefetched: bool) -> None:
    """Give an expert whose copy starts its place in the pool."""
    key = layer * s.num_experts + expert
    m.status[key] = IN_FLIGHT
    join(m, m.pool_of[layer], key, size)
    if m.admit:
        r.admit(r.eviction, s, r.eviction_memory, layer, expert, prefetched)


@core_jit
def stage(m: Any, expert: int) -> bool:
    """Take a staging slot for an expert of the current layer, if one is free."""
    if m.staging_free == 0:
        return False
    m.staging_free -= 1
    m.staged[expert] = 1
    m.copy_staged = 1
    return True


@core_jit
def place_demand(s: Any, m: Any, r: Any, layer: int, expert: int) -> bool:
    """Find a slot for a demanded expert; False if it has to wait until something has been executed."""
    m.copy_staged = 0
    pool = m.pool_of[layer]
    if m.transient[expert] or m.static:
        return bool(stage(m, expert))
    size, key = m.low_size[layer] if m.runs_low[expert] else m.size[layer], layer * s.num_experts + expert
    low = m.held[key] if m.status[key] == LOW else 0  # bytes that its full version takes over
    # above capacity the step keeps its most recent experts whatever the rule: else the clock would decide
    asks = m.bypass and m.overflow == 0
    while m.hold == 0 and m.used[pool] - low + size > m.capacity[pool]:
        victim = victim_for(s, m, r, layer, size - low)
        if victim < 0:
            return False if m.holding_transient > 0 else bool(stage(m, expert))
        if asks and refuses(s, m, r, expert, victim):
            if not stage(m, expert):
                return False
            m.counts[N_BYPASSES] += 1
            return True
        asks = False  # once a victim has gone the expert comes
        evict(s, m, pool, victim)
    if low > 0:
        leave(m, pool, key)
    take_slot(s, m, r, layer, expert, size, False)
    return True


@core_jit
def refuses(s: Any, m: Any, r: Any, expert: int, victim: int) -> bool:
    """Whether the rule lets a missing expert stream past the cache rather than evict ``victim``."""
    layer, candidate = victim // s.num_experts, victim % s.num_experts
    return bool(r.bypass(r.eviction, s, r.eviction_memory, expert, layer, candidate))


@core_jit
def place_prefetch(s: Any, m: Any, r: Any, key: int) -> bool:
    """Find a slot for a prefetched expert; False cancels it: it may not push out anything shielded."""
    m.copy_staged = 0
    layer = key // s.num_experts
    pool, size = m.pool_of[layer], m.size[layer]
    if m.status[key] == RESIDENT or m.status[key] == IN_FLIGHT or size > m.capacity[pool]:
        return False
    shield, low = m.shield[key], m.held[key] if m.status[key] == LOW else 0
    m.shield[key] = 1  # a low-precision version stays until the full one has a slot, and takes part of it
    while m.used[pool] - low + size > m.capacity[pool]:
        victim = victim_for(s, m, r, layer, size - low)
        if victim < 0:
            m.shield[key] = shield
            return False
        evict(s, m, pool, victim)
    if low > 0:
        leave(m, pool, key)
    take_slot(s, m, r, layer, key % s.num_experts, size, True)
    m.prefetched[key] = 1
    m.prefetched_count[layer] += 1
    return True
