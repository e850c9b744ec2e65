"""Who gets a slot: victims, admission, staging, and how a copy finds its place. Compiled, no clock."""

from __future__ import annotations

from typing import Any

from numba import njit

from policies.state import ABSENT, IN_FLIGHT, RESIDENT
from sim.engine.counters import N_BYPASSES, N_EVICTIONS


@njit(cache=True)
def find_victim(s: Any, m: Any, r: Any, layer: int) -> int:
    """Lowest (priority, layer, expert) unshielded resident of ``layer``'s pool as layer * E + expert; -1 if none."""
    r.refresh(s, r.eviction_knobs, r.eviction_memory, layer)
    pool, best, lowest = m.pool_of[layer], -1, 0.0
    for other in range(s.num_layers):
        if m.pool_of[other] != pool:
            continue
        for expert in range(s.num_experts):
            if s.status[other, expert] == RESIDENT and s.shield[other, expert] == 0:
                priority = s.priority[other, expert]
                if best < 0 or priority < lowest:
                    best, lowest = other * s.num_experts + expert, priority
    return best


@njit(cache=True)
def reclaimable(s: Any, m: Any, pool: int) -> int:
    """Bytes of a pool that could be evicted now."""
    total = 0
    for layer in range(s.num_layers):
        if m.pool_of[layer] == pool:
            for expert in range(s.num_experts):
                if s.status[layer, expert] == RESIDENT and s.shield[layer, expert] == 0:
                    total += m.size[layer]
    return total


@njit(cache=True)
def victim_for(s: Any, m: Any, r: Any, layer: int) -> int:
    """The next victim for a slot of ``layer``; -1 if evicting everything allowed is not enough."""
    victim: int = find_victim(s, m, r, layer)
    pool = m.pool_of[layer]
    short = m.used[pool] + m.size[layer] - m.capacity[pool]
    if victim >= 0 and m.size[victim // s.num_experts] < short and reclaimable(s, m, pool) < short:
        return -1
    return victim


@njit(cache=True)
def evict(s: Any, m: Any, victim: int) -> None:
    """Take a resident expert out of its pool."""
    layer, expert = victim // s.num_experts, victim % s.num_experts
    s.status[layer, expert] = ABSENT
    m.used[m.pool_of[layer]] -= m.size[layer]
    m.counts[N_EVICTIONS] += 1


@njit(cache=True)
def admit(s: Any, m: Any, r: Any, layer: int, expert: int, prefetched: bool) -> None:
    """Give an expert whose copy starts its place in the pool."""
    s.status[layer, expert] = IN_FLIGHT
    m.used[m.pool_of[layer]] += m.size[layer]
    r.admit(s, r.eviction_knobs, r.eviction_memory, layer, expert, prefetched)


@njit(cache=True)
def stage(m: Any, expert: int) -> bool:
    """Take a staging slot for an expert of the current layer, if one is free."""
    if m.staging_free == 0:
        return False
    m.staging_free -= 1
    m.staged[expert] = 1
    m.copy_staged = 1
    return True


@njit(cache=True)
def place_demand(s: Any, m: Any, r: Any, layer: int, expert: int) -> bool:
    """Find a slot for a demanded expert; False if it has to wait until something has been executed."""
    m.copy_staged = 0
    pool = m.pool_of[layer]
    if m.transient[expert]:
        return bool(stage(m, expert))
    while m.hold == 0 and m.used[pool] + m.size[layer] > m.capacity[pool]:
        victim = victim_for(s, m, r, layer)
        if victim < 0:
            return False if m.holding_transient > 0 else bool(stage(m, expert))
        other, candidate = victim // s.num_experts, victim % s.num_experts
        # above capacity the step keeps its most recent experts whatever the rule: else the clock would decide
        if m.overflow == 0 and r.bypass(s, r.eviction_knobs, r.eviction_memory, expert, other, candidate):
            if not stage(m, expert):
                return False
            m.counts[N_BYPASSES] += 1
            return True
        evict(s, m, victim)
    admit(s, m, r, layer, expert, False)
    return True


@njit(cache=True)
def place_prefetch(s: Any, m: Any, r: Any, layer: int, expert: int) -> bool:
    """Find a slot for a prefetched expert; False cancels it: it may not push out anything shielded."""
    m.copy_staged = 0
    pool = m.pool_of[layer]
    if s.status[layer, expert] != ABSENT or m.size[layer] > m.capacity[pool]:
        return False
    while m.used[pool] + m.size[layer] > m.capacity[pool]:
        victim = victim_for(s, m, r, layer)
        if victim < 0:
            return False
        evict(s, m, victim)
    admit(s, m, r, layer, expert, True)
    s.shield[layer, expert] = 1
    m.prefetched[layer, expert] = 1
    return True
