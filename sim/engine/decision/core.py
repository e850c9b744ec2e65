"""The decision core: what happens to residency and queues, without a clock. Every engine drives these functions.

``load`` takes the router output of a step; ``begin`` turns one layer's demand into a plan; ``next_copy`` starts the
next copy on the link if there is one and finds it a slot; ``copy_done`` makes it resident; ``executed`` releases what
an expert held; ``end`` closes the layer step. A victim leaves when its replacement's copy starts. Capacity counts
resident and in-flight experts.
"""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from policies.state import IN_FLIGHT, LOW, RESIDENT
from sim.engine.decision.counters import (
    FULL,
    LOW_COPY,
    N_COPIED_BYTES,
    N_DEMAND_COPIES,
    N_OVERFLOW_STEPS,
    N_PREFETCH_ABANDONED,
    N_PREFETCH_CANCELLED,
    N_PREFETCH_COPIES,
    N_PREFETCH_WASTED,
    PIECE,
)
from sim.engine.decision.demand import (
    check_assignment,
    count_ranks,
    distinct,
    load_layer,
    mark_cpu,
    price_missing,
    queue_work,
    settle_outcomes,
    sort_executed,
)
from sim.engine.decision.slots import evict, find_victim, join, leave, place_demand, place_prefetch
from sim.engine.decision.struct_views import borrowed, core_jit

IDLE, WAIT, DEMAND_COPY, PREFETCH_COPY = range(4)
"""What ``next_copy`` did: nothing is queued; the next copy has no slot yet; a copy started or went on."""


@register_jitable
def copy_code(key: int, kind: int, what: int) -> int:
    """One number for a copy: key layer * E + expert, kind FULL, PIECE or LOW_COPY, DEMAND_COPY or PREFETCH_COPY."""
    return (key * 4 + kind) * 4 + what


@register_jitable
def decode_copy(code: int) -> tuple[int, int, int]:
    """(key, kind, what) of a ``copy_code``."""
    return code // 16, code // 4 % 4, code % 4


@core_jit
def fill(s: Any, m: Any, r: Any, order: Any) -> None:
    """Warm start: experts (keys layer * E + expert) in the given order, each if its pool still has room."""
    for key in order:
        layer, expert = key // s.num_experts, key % s.num_experts
        pool = m.pool_of[layer]
        if m.used[pool] + m.size[layer] <= m.capacity[pool]:
            m.status[key] = RESIDENT
            join(m, pool, key, m.size[layer])
            r.admit(r.eviction, s, r.eviction_memory, layer, expert, True)


@core_jit
def load(s: Any, m: Any, ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any) -> None:
    """Begin a forward pass of B tokens; ``begin`` reads its layers from these arrays (shapes: see layout).

    Who calls keeps them alive until the next ``load``.
    """
    m.step_ids, m.step_weights, m.step_scores = borrowed(ids), borrowed(weights), borrowed(scores)
    m.step_lookahead, m.step_next_use = borrowed(lookahead), borrowed(next_use)
    s.routed = m.step_ids
    s.num_tokens, s.num_ranks = ids.shape[0], ids.shape[2]


@core_jit
def enter(s: Any, m: Any, phase: int, group: int) -> None:
    """Note which step begins: its phase and its lockstep batch."""
    s.phase, s.group = phase, group
    s.step += 1


@core_jit
def forget(s: Any, m: Any, staging_slots: int) -> None:
    """Void what is queued, on the link or held; the arrays of residency are the caller's to clear."""
    m.demand_head = m.demand_tail = m.prefetch_head = m.prefetch_tail = 0
    m.pieces_left = m.paused_pieces = m.holding_transient = 0
    m.staging_free = staging_slots


@core_jit
def drop_queued_prefetches(s: Any, m: Any) -> None:
    """Cancel queued prefetches for the current layer: demand takes over, wrong ones are void."""
    kept = 0
    for i in range(m.prefetch_head, m.prefetch_tail):
        key = m.prefetch_queue[i]
        if key // s.num_experts == s.layer:
            m.queued[key] = 0
            m.counts[N_PREFETCH_CANCELLED] += 1
        else:
            m.prefetch_queue[kept] = key
            kept += 1
    m.prefetch_head, m.prefetch_tail = 0, kept


@core_jit
def unshield_residents(s: Any, m: Any, layer: int) -> None:
    """The prediction for a layer is void once it begins; what was fetched for it stays protected until it ends."""
    first, stop = layer * s.num_experts, (layer + 1) * s.num_experts
    prefetched, shield = m.prefetched[first:stop], m.shield[first:stop]
    for expert in range(s.num_experts):
        shield[expert] = shield[expert] if prefetched[expert] else 0


@core_jit
def shield_step(s: Any, m: Any) -> None:
    """Protect what the step executes on the GPU; above capacity keep only its most recent experts.

    The rest is transient: in a slot already, it gives the slot up once executed; missing, it passes through staging.
    """
    base, size, now = s.layer * s.num_experts, m.size[s.layer], s.now
    room = m.capacity[m.pool_of[s.layer]]
    executed, shield, on_cpu_at, runs_low = s.executed, m.shield, m.on_cpu_at, m.runs_low
    m.holding_transient, m.overflow = 0, 0
    for i in range(s.num_executed - 1, -1, -1):
        expert = executed[i]
        if on_cpu_at[expert] == now:
            continue
        room -= m.low_size[s.layer] if runs_low[expert] else size
        shield[base + expert] = 1
        if m.static:
            continue
        if room < 0 and m.hold == 0:
            m.overflow = 1
            m.transient[expert] = 1
            status = m.status[base + expert]
            if status in (RESIDENT, IN_FLIGHT) or (status == LOW and runs_low[expert]):
                m.holding_transient += 1
    m.counts[N_OVERFLOW_STEPS] += m.overflow


@core_jit
def predict_and_queue(s: Any, m: Any, r: Any) -> None:
    """Let the policy predict and choose; queue what is neither present nor queued yet, protect what is present."""
    s.num_predicted, s.num_predicted_tokens, s.num_prefetch = 0, s.num_tokens, 0
    r.predict(r.prediction, s, r.prediction_memory)
    if m.choose == 0:
        return
    estimate_window(s, m)
    r.choose(r.prefetch, s, r.prefetch_memory)
    if s.num_prefetch > s.prefetch_layer.shape[0]:
        raise ValueError("a prefetch rule wrote more experts than prefetch_expert holds")
    if m.prefetch_head > 0:
        close_gap(m)
    for i in range(s.num_prefetch):
        layer, expert = s.prefetch_layer[i], s.prefetch_expert[i]
        if not (s.layer < layer < s.num_layers and 0 <= expert < s.num_experts):
            raise ValueError("a prefetch rule chose an expert outside the later layers of the model")
        key = layer * s.num_experts + expert
        if m.status[key] == RESIDENT or m.status[key] == IN_FLIGHT:  # nothing fetched beside it may push it out
            m.shield[key] = 1
            m.prefetched_count[layer] += 1
        elif m.queued[key] == 0:
            m.queued[key] = 1
            m.prefetch_queue[m.prefetch_tail] = key
            m.prefetch_tail += 1


@core_jit
def close_gap(m: Any) -> None:
    """Move what is still queued to the start of the prefetch queue, which has room for every expert once."""
    kept = m.prefetch_tail - m.prefetch_head
    for i in range(kept):
        m.prefetch_queue[i] = m.prefetch_queue[m.prefetch_head + i]
    m.prefetch_head, m.prefetch_tail = 0, kept


@core_jit
def estimate_window(s: Any, m: Any) -> None:
    """Expected idle time of the link until the next lookup: the layer's GPU time minus its demand copies."""
    s.window_ns = 0
    if m.layer_ns.shape[0] > 0:
        window = m.layer_ns[s.layer]
        for i in range(m.plan[1]):
            window += m.expert_ns[s.layer, m.tokens_of[m.gpu_queue[i]]]
        s.window_ns = max(0, window - m.demand_tail * s.load_ns[s.layer])


@core_jit
def begin(s: Any, m: Any, r: Any, layer: int) -> None:
    """Start a layer step: look up, substitute, assign, touch, queue demand copies, then prefetches."""
    s.layer = layer
    s.now += 1
    if m.prefetch_tail > m.prefetch_head:
        drop_queued_prefetches(s, m)
    if m.prefetched_count[layer] > 0:
        unshield_residents(s, m, layer)
    load_layer(s, m)
    s.num_demand = distinct(s, m, s.ids, s.demand)
    if m.substitute:
        s.degraded[:] = 0
        r.substitute(r.substitution, s, r.substitution_memory)
        s.num_executed = distinct(s, m, s.executed_ids, s.executed)
    else:
        s.num_executed = s.num_demand
        for i in range(s.num_demand):
            s.executed[i] = s.demand[i]
    sort_executed(s, m)
    if m.assign and s.num_missing > 0:
        price_missing(s, m)
        r.assign(r.assignment, s, r.assignment_memory)
        check_assignment(s)
        mark_cpu(s, m)
    count_ranks(s, m)
    settle_outcomes(s, m)
    shield_step(s, m)
    if m.touch:
        r.touch(r.eviction, s, r.eviction_memory)
    queue_work(s, m)
    if m.predict and m.predict_at_end == 0:
        predict_and_queue(s, m, r)


@core_jit
def resume(s: Any, m: Any) -> int:
    """Go on with the paused prefetch."""
    m.copy_layer, m.copy_expert, m.pieces_left = m.paused_layer, m.paused_expert, m.paused_pieces
    m.paused_pieces, m.copy_kind, m.copy_staged = 0, PIECE, 0
    count_piece(m)
    return int(copy_code(m.copy_layer * s.num_experts + m.copy_expert, PIECE, PREFETCH_COPY))


@core_jit
def count_piece(m: Any) -> None:
    """Count the bytes of the piece that starts; the last piece carries the remainder."""
    size = m.size[m.copy_layer]
    piece = size // m.chunks
    m.counts[N_COPIED_BYTES] += size - (m.chunks - 1) * piece if m.pieces_left == 1 else piece


@core_jit
def abandon(s: Any, m: Any) -> None:
    """Give up the paused prefetch: its layer came and did not execute it."""
    key = m.paused_layer * s.num_experts + m.paused_expert
    leave(m, m.pool_of[m.paused_layer], key)
    m.shield[key] = 0
    m.paused_pieces = 0
    if m.prefetched[key]:
        m.prefetched[key] = 0
        m.prefetched_count[m.paused_layer] -= 1
        m.counts[N_PREFETCH_ABANDONED] += 1


@core_jit
def next_copy(s: Any, m: Any, r: Any) -> int:
    """Start the next copy, demand before prefetch, each first in first out.

    A prefetch paused between two pieces goes on first if the current layer waits for it, else once no demand is left.
    Returns IDLE or WAIT, or for a copy that started its ``copy_code``.
    """
    m.back_ns = m.plan[5] = 0
    if m.paused_pieces > 0:
        here = m.paused_layer == s.layer
        if here and m.executed_at[m.paused_expert] == s.now:
            return int(resume(s, m))
        if here or m.shield[m.paused_layer * s.num_experts + m.paused_expert] == 0:  # nobody wants it any more
            abandon(s, m)
    if m.demand_head < m.demand_tail:
        expert = m.demand_queue[m.demand_head]
        if not place_demand(s, m, r, s.layer, expert):
            return WAIT
        m.demand_head += 1
        m.copy_layer, m.copy_expert, m.pieces_left = s.layer, expert, 1
        m.copy_kind = LOW_COPY if m.runs_low[expert] else FULL
        m.counts[N_DEMAND_COPIES] += 1
        m.counts[N_COPIED_BYTES] += m.low_size[s.layer] if m.runs_low[expert] else m.size[s.layer]
        m.plan[5] = m.back_ns
        return int(copy_code(s.layer * s.num_experts + expert, m.copy_kind, DEMAND_COPY))
    if m.paused_pieces > 0:
        return int(resume(s, m))
    while m.prefetch_head < m.prefetch_tail:
        key = m.prefetch_queue[m.prefetch_head]
        m.prefetch_head += 1
        m.queued[key] = 0
        if place_prefetch(s, m, r, key):
            m.copy_layer, m.copy_expert = key // s.num_experts, key % s.num_experts
            m.pieces_left, m.copy_kind = m.chunks, PIECE if m.chunks > 1 else FULL
            m.counts[N_PREFETCH_COPIES] += 1
            count_piece(m)
            m.plan[5] = m.back_ns
            return int(copy_code(key, m.copy_kind, PREFETCH_COPY))
        m.counts[N_PREFETCH_CANCELLED] += 1
    return IDLE


@core_jit
def copy_done(s: Any, m: Any) -> int:
    """What was on the link has arrived -> 1 if the expert is whole (resident unless staged), 0 if pieces are left."""
    m.pieces_left -= 1
    if m.pieces_left > 0:
        m.paused_layer, m.paused_expert, m.paused_pieces = m.copy_layer, m.copy_expert, m.pieces_left
        return 0
    if m.copy_staged == 0:
        m.status[m.copy_layer * s.num_experts + m.copy_expert] = LOW if m.copy_kind == LOW_COPY else RESIDENT
    return 1


@core_jit
def executed(s: Any, m: Any, expert: int) -> None:
    """The GPU has executed an expert of the current layer: release its staging slot, or the slot it may not keep."""
    if m.staged[expert]:
        m.staged[expert] = 0
        m.staging_free += 1
    elif m.transient[expert]:
        m.shield[s.layer * s.num_experts + expert] = 0
        m.holding_transient -= 1


@core_jit
def trim(s: Any, m: Any, r: Any, layer: int) -> None:
    """Evict down to the capacity after a step that held more, sparing the step itself."""
    pool = m.pool_of[layer]
    while m.used[pool] > m.capacity[pool]:
        victim = find_victim(s, m, r, layer)
        if victim < 0:
            break
        evict(s, m, pool, victim)


@core_jit
def waste(s: Any, m: Any, layer: int) -> None:
    """Prefetched experts of the layer that were not demanded were wasted; all lose their shield."""
    first, stop = layer * s.num_experts, (layer + 1) * s.num_experts
    prefetched, shield, wasted = m.prefetched[first:stop], m.shield[first:stop], 0
    for expert in range(s.num_experts):
        wasted += prefetched[expert]
        prefetched[expert] = shield[expert] = 0
    m.counts[N_PREFETCH_WASTED] += wasted
    m.prefetched_count[layer] = 0


@core_jit
def end(s: Any, m: Any, r: Any) -> None:
    """Close the layer step: late predictions, held overflow, wasted prefetches, shields."""
    layer, base = s.layer, s.layer * s.num_experts
    if m.predict and m.predict_at_end:
        predict_and_queue(s, m, r)
    if m.hold:
        trim(s, m, r, layer)
    executed, shield, transient = s.executed, m.shield, m.transient
    for i in range(s.num_executed):
        shield[base + executed[i]] = 0
        transient[executed[i]] = 0
    if m.prefetched_count[layer] > 0:
        waste(s, m, layer)
