"""The store of experts in host memory, where storage holds what it lacks: who is served, who stays. Compiled, no clock.

Keys of experts form a ring in the order in which they leave, the next to leave behind the sentinel L * E. Under LRU
whoever is served goes to its end; under FIFO the order is that of arrival. A lookup serves one expert: what a step
finds here is served although the step's own reads may take its place. What does not fit at all passes through.
"""

from __future__ import annotations

from policies.state import CPU, IN_FLIGHT, State
from sim.engine.decision.cache import Cache, Ids
from sim.engine.decision.counters import N_HOST_HITS, N_HOST_MISSES, N_STORAGE_BYTES
from sim.engine.decision.struct_views import core_jit


@core_jit
def unlink(cache: Cache, key: int) -> None:
    """Take a key out of the ring."""
    before, behind = cache.host_before[key], cache.host_behind[key]
    cache.host_behind[before] = behind
    cache.host_before[behind] = before


@core_jit
def link_last(cache: Cache, key: int) -> None:
    """Make a key the last to leave."""
    sentinel = cache.in_host.shape[0]
    last = cache.host_before[sentinel]
    cache.host_before[key], cache.host_behind[key] = last, sentinel
    cache.host_behind[last] = cache.host_before[sentinel] = key


@core_jit
def take_out(state: State, cache: Cache, key: int) -> None:
    """An expert leaves host memory."""
    unlink(cache, key)
    size = cache.size[key // state.num_experts]
    cache.in_host[key] = 0
    cache.host_used -= size
    cache.host_out_bytes += size


@core_jit
def put_in(state: State, cache: Cache, key: int) -> None:
    """An expert comes to host memory, in the place of those whose turn it is to leave, unless it is too large."""
    size = cache.size[key // state.num_experts]
    if size > cache.host_capacity:
        return
    while cache.host_used + size > cache.host_capacity:
        take_out(state, cache, int(cache.host_behind[cache.in_host.shape[0]]))
    link_last(cache, key)
    cache.in_host[key] = 1
    cache.host_used += size
    cache.host_in_bytes += size


@core_jit
def look_up(state: State, cache: Cache, key: int) -> bool:
    """Serve an expert -> whether storage has to read it first."""
    if cache.in_host[key]:
        cache.counts[N_HOST_HITS] += 1
        if cache.host_is_lru:
            unlink(cache, key)
            link_last(cache, key)
        return False
    cache.counts[N_HOST_MISSES] += 1
    cache.counts[N_STORAGE_BYTES] += cache.size[key // state.num_experts]
    put_in(state, cache, key)
    return True


@core_jit
def give_back(state: State, cache: Cache, key: int) -> None:
    """A victim of the slots is written back."""
    if cache.in_host[key] == 0:
        put_in(state, cache, key)


@core_jit
def open_host(state: State, cache: Cache, warm: bool) -> None:
    """Host memory as at the start: empty, or ``warm`` with the first experts of every layer, the second ones, ... as
    long as they fit."""
    sentinel = cache.in_host.shape[0]
    cache.in_host[:] = 0
    cache.host_before[sentinel] = cache.host_behind[sentinel] = sentinel
    cache.host_used = cache.host_in_bytes = cache.host_out_bytes = 0
    for expert in range(state.num_experts if warm else 0):
        for layer in range(state.num_layers):
            if cache.host_used + cache.size[layer] <= cache.host_capacity:
                put_in(state, cache, layer * state.num_experts + expert)


@core_jit
def serve(state: State, cache: Cache, missing: Ids) -> None:
    """Look up what the layer step misses, link and CPU alike, in the order in which the assignment serves it.

    ``serving`` is that order with what lies in host memory first: nothing waits behind a read that does not have to.
    """
    base, now, reads, served = state.layer * state.num_experts, state.now, 0, 0
    for i in range(state.num_missing):
        j = state.order[i] if cache.has_assign else i
        expert = missing[j]
        on_cpu = cache.has_assign and state.side[j] == CPU
        asks = cache.cpu_reads if on_cpu else cache.status[base + expert] != IN_FLIGHT
        if asks and look_up(state, cache, base + expert):
            cache.read_at[expert] = now
            cache.read_queue[reads] = expert
            reads += 1
        else:
            cache.serving[served] = j
            served += 1
    for i in range(state.num_missing if reads > 0 else 0):
        j = state.order[i] if cache.has_assign else i
        if cache.read_at[missing[j]] == now:
            cache.serving[served] = j
            served += 1
    cache.num_reads = reads
