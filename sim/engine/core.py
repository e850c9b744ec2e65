"""The decision core: what happens to residency and queues, without a clock. Every engine drives these five functions.

``begin`` turns a layer's demand into a plan; ``next_copy`` starts the next copy on the link if there is one and finds
it a slot; ``copy_done`` makes it resident; ``executed`` releases what an expert held; ``end`` closes the layer step.
A victim leaves when its replacement's copy starts. Capacity counts resident and in-flight experts.
"""

from __future__ import annotations

from typing import Any

from numba import f4, i4, i8, njit, void

from policies.state import ABSENT, CPU, RESIDENT
from sim.engine.counters import (
    N_COPIED_BYTES,
    N_DEMAND_COPIES,
    N_OVERFLOW_STEPS,
    N_PREFETCH_CANCELLED,
    N_PREFETCH_COPIES,
    N_PREFETCH_WASTED,
)
from sim.engine.demand import count_ranks, distinct, find_missing, load_step, queue_work, settle_outcomes
from sim.engine.layout import MACHINE, RULES, STATE
from sim.engine.slots import evict, find_victim, place_demand, place_prefetch

IDLE, WAIT, DEMAND_COPY, PREFETCH_COPY = range(4)
"""What ``next_copy`` did: nothing is queued; the next copy has no slot yet; a copy started."""


@njit(void(STATE, MACHINE, RULES), cache=True)
def fill(s: Any, m: Any, r: Any) -> None:
    """Warm start: the first experts of each pool, in order of layer and expert, until it is full."""
    for layer in range(s.num_layers):
        pool = m.pool_of[layer]
        for expert in range(s.num_experts):
            if m.used[pool] + m.size[layer] <= m.capacity[pool]:
                s.status[layer, expert] = RESIDENT
                m.used[pool] += m.size[layer]
                r.admit(s, r.eviction_knobs, r.eviction_memory, layer, expert, True)


@njit(cache=True)
def drop_queued_prefetches(s: Any, m: Any) -> None:
    """Cancel queued prefetches for the current layer: demand takes over, wrong ones are void."""
    for i in range(m.prefetch_head, m.prefetch_tail):
        layer, expert = m.prefetch_queue[i, 0], m.prefetch_queue[i, 1]
        if layer == s.layer:
            m.queued[layer, expert] = 0
            m.counts[N_PREFETCH_CANCELLED] += 1
    close_gaps(s, m)


@njit(cache=True)
def close_gaps(s: Any, m: Any) -> None:
    """Move what is still queued to the start of the prefetch queue, which has room for every expert once."""
    kept = 0
    for i in range(m.prefetch_head, m.prefetch_tail):
        layer, expert = m.prefetch_queue[i, 0], m.prefetch_queue[i, 1]
        if m.queued[layer, expert]:
            m.prefetch_queue[kept, 0], m.prefetch_queue[kept, 1] = layer, expert
            kept += 1
    m.prefetch_head, m.prefetch_tail = 0, kept


@njit(cache=True)
def shield_step(s: Any, m: Any) -> None:
    """Protect what the step executes on the GPU; above capacity keep only its most recent experts.

    The rest is transient: in a slot already, it gives the slot up once executed; missing, it passes through staging.
    """
    layer = s.layer
    m.transient[:] = 0
    m.holding_transient = 0
    for j in range(s.num_missing):
        if s.side[j] == CPU:
            m.transient[s.missing[j]] = 2
    room = m.capacity[m.pool_of[layer]]
    overflow = False
    for i in range(s.num_executed - 1, -1, -1):
        expert = s.executed[i]
        if m.transient[expert] == 2:
            m.transient[expert] = 0
            continue
        room -= m.size[layer]
        s.shield[layer, expert] = 1
        if room < 0 and m.hold == 0:
            overflow = True
            m.transient[expert] = 1
            if s.status[layer, expert] != ABSENT:
                m.holding_transient += 1
    m.overflow = overflow
    m.counts[N_OVERFLOW_STEPS] += overflow


@njit(cache=True)
def predict_and_queue(s: Any, m: Any, r: Any) -> None:
    """Let the policy predict and choose; queue what is neither present nor queued yet."""
    s.num_predicted, s.num_predicted_tokens = 0, s.num_tokens
    s.num_prefetch = 0
    r.predict(s, r.prediction_knobs, r.prediction_memory)
    r.choose(s, r.prefetch_knobs, r.prefetch_memory)
    close_gaps(s, m)
    if s.num_prefetch > s.prefetch_layer.shape[0]:
        raise ValueError("a prefetch rule wrote more experts than prefetch_expert holds")
    for i in range(s.num_prefetch):
        layer, expert = s.prefetch_layer[i], s.prefetch_expert[i]
        if not (s.layer < layer < s.num_layers and 0 <= expert < s.num_experts):
            raise ValueError("a prefetch rule chose an expert outside the later layers of the model")
        if s.status[layer, expert] == ABSENT and m.queued[layer, expert] == 0:
            m.queued[layer, expert] = 1
            m.prefetch_queue[m.prefetch_tail, 0] = layer
            m.prefetch_queue[m.prefetch_tail, 1] = expert
            m.prefetch_tail += 1


@njit(
    void(STATE, MACHINE, RULES, i8, i8, i4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], f4[:, :, ::1], i8[:, :, ::1]),
    cache=True,
)
def begin(
    s: Any,
    m: Any,
    r: Any,
    layer: int,
    phase: int,
    ids: Any,
    weights: Any,
    scores: Any,
    lookahead: Any,
    next_use: Any,
) -> None:
    """Start a layer step: look up, substitute, assign, touch, queue demand copies, then prefetches.

    ids, weights, next_use [B, L, K]; scores [B, L, E]; lookahead [B, L-1, E]; absent ones have no rows.
    """
    s.layer, s.phase = layer, phase
    s.now += 1
    drop_queued_prefetches(s, m)
    load_step(s, ids, weights, scores, lookahead, next_use)
    s.num_demand = distinct(s.ids, s.num_tokens, s.num_ranks, m.seen, s.demand, m.tokens_of)
    r.substitute(s, r.substitution_knobs, r.substitution_memory)
    s.num_executed = distinct(s.executed_ids, s.num_tokens, s.num_ranks, m.seen, s.executed, m.tokens_of)
    find_missing(s, m)
    if s.num_missing > 0:
        r.assign(s, r.assignment_knobs, r.assignment_memory)
    count_ranks(s, m)
    settle_outcomes(s, m)
    shield_step(s, m)
    r.touch(s, r.eviction_knobs, r.eviction_memory)
    queue_work(s, m)
    if m.predict_at_end == 0:
        predict_and_queue(s, m, r)


@njit(i8(STATE, MACHINE, RULES), cache=True)
def next_copy(s: Any, m: Any, r: Any) -> int:
    """Start the next copy, demand before prefetch, each first in first out.

    Returns IDLE or WAIT, or for a copy that started (layer * E + expert) * 4 + DEMAND_COPY or PREFETCH_COPY.
    """
    if m.demand_head < m.demand_tail:
        expert = m.demand_queue[m.demand_head]
        if not place_demand(s, m, r, s.layer, expert):
            return WAIT
        m.demand_head += 1
        m.copy_layer, m.copy_expert = s.layer, expert
        m.counts[N_DEMAND_COPIES] += 1
        m.counts[N_COPIED_BYTES] += m.size[s.layer]
        return int((s.layer * s.num_experts + expert) * 4 + DEMAND_COPY)
    while m.prefetch_head < m.prefetch_tail:
        layer, expert = m.prefetch_queue[m.prefetch_head, 0], m.prefetch_queue[m.prefetch_head, 1]
        m.prefetch_head += 1
        m.queued[layer, expert] = 0
        if place_prefetch(s, m, r, layer, expert):
            m.copy_layer, m.copy_expert = layer, expert
            m.counts[N_PREFETCH_COPIES] += 1
            m.counts[N_COPIED_BYTES] += m.size[layer]
            return int((layer * s.num_experts + expert) * 4 + PREFETCH_COPY)
        m.counts[N_PREFETCH_CANCELLED] += 1
    return IDLE


@njit(void(STATE, MACHINE), cache=True)
def copy_done(s: Any, m: Any) -> None:
    """The copy on the link has arrived: resident from now on, unless it sits in a staging slot."""
    if m.copy_staged == 0:
        s.status[m.copy_layer, m.copy_expert] = RESIDENT


@njit(void(STATE, MACHINE, i8), cache=True)
def executed(s: Any, m: Any, expert: int) -> None:
    """The GPU has executed an expert of the current layer: release its staging slot, or the slot it may not keep."""
    if m.staged[expert]:
        m.staged[expert] = 0
        m.staging_free += 1
    elif m.transient[expert]:
        s.shield[s.layer, expert] = 0
        m.holding_transient -= 1


@njit(void(STATE, MACHINE, RULES), cache=True)
def end(s: Any, m: Any, r: Any) -> None:
    """Close the layer step: late predictions, held overflow, wasted prefetches, shields."""
    layer = s.layer
    if m.predict_at_end:
        predict_and_queue(s, m, r)
    pool = m.pool_of[layer]
    while m.hold and m.used[pool] > m.capacity[pool]:
        victim = find_victim(s, m, r, layer)
        if victim < 0:
            break
        evict(s, m, victim)
    for expert in range(s.num_experts):
        s.shield[layer, expert] = 0
        if m.prefetched[layer, expert]:
            m.prefetched[layer, expert] = 0
            m.counts[N_PREFETCH_WASTED] += 1
