"""The model as one compiled recurrence: GPU, link and CPU of one device, the same rules and the same nanoseconds.

The GPU's time runs ahead; what happened on the link and on the CPU meanwhile is caught up with, in order of time,
whenever the GPU needs to know: at a lookup, while it waits, when an expert releases its slot, at the end of a layer.
Where several things happen at the same instant the link goes first, then the CPU, then the GPU, as in the SimPy engine.
"""

from __future__ import annotations

from typing import Any

from numba import b1, f8, i8, njit, u1
from numba.extending import register_jitable
from numpy.typing import NDArray

from policies.state import DROPPED, State
from sim.engine.clocks import timeline_log
from sim.engine.clocks.clock import Clock, as_clock
from sim.engine.clocks.lean import lean_step
from sim.engine.clocks.storage import arrival, ask_storage
from sim.engine.clocks.timeline_log import (
    BACK_OVERLAP,
    BACK_SERIAL,
    LOG_BACK,
    LOG_COPY,
    LOG_CPU,
    LOG_DRAFT,
    LOG_EXPERT,
    LOG_HELD,
    LOG_LAYER,
    LOG_OUTCOME,
    LOG_PART,
    LOG_PREFETCH,
    LOG_QUEUE,
    LOG_READ,
    LOG_STAND_IN,
    STAGED_COPY,
)
from sim.engine.decision import core
from sim.engine.decision.cache import Cache
from sim.engine.decision.counters import FULL
from sim.engine.decision.layout import AHEAD, IDS, SCORES, TIMES, Rules, as_cache, as_rules, as_state
from sim.engine.decision.struct_views import core_jit
from sim.machine import attention
from sim.machine.parts import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, PARTS, STORAGE_WAIT

attention_time = register_jitable(attention.attention_time)
log_rows = register_jitable(timeline_log.log_rows)
LINK_IDLE, LINK_COPY, LINK_BLOCKED = range(3)
"""States of the link: free; copying; waiting until the victims of its last copy are written back."""
FOREVER = 2**62


@core_jit
def note(clock: Clock, kind: int, what: int, begin_ns: int, end_ns: int, extra: int) -> None:
    """Keep a slice of the timeline."""
    i, log = clock.log_size, clock.log
    log[i, 0], log[i, 1], log[i, 2], log[i, 3], log[i, 4] = kind, what, begin_ns, end_ns, extra
    clock.log_size = i + 1


@core_jit
def spend(clock: Clock, part: int, amount_ns: int) -> None:
    """Let the GPU's time advance, booked to a part."""
    clock.parts[part] += amount_ns
    clock.now_ns += amount_ns


@core_jit
def book(clock: Clock, part: int, amount_ns: int, key: int) -> None:
    """``spend`` as a slice of its own in the timeline."""
    if clock.logs and amount_ns > 0:
        note(clock, LOG_PART, key, clock.now_ns, clock.now_ns + amount_ns, part)
    spend(clock, part, amount_ns)


@core_jit
def note_lookup(state: State, cache: Cache, clock: Clock) -> None:
    """Keep what a lookup found: outcomes, queues, what occupies slots."""
    base, now = state.layer * state.num_experts, clock.now_ns
    for i in range(state.num_demand):
        note(clock, LOG_OUTCOME, base + state.demand[i], now, now, cache.outcome[i])
    if cache.has_substitute:
        note_stand_ins(state, clock)
    note(clock, LOG_QUEUE, cache.demand_tail - cache.demand_head, now, now, cache.prefetch_tail - cache.prefetch_head)
    note(clock, LOG_HELD, cache.member_count.sum(), now, now, cache.used.sum())


@core_jit
def note_stand_ins(state: State, clock: Clock) -> None:
    """Keep which experts are executed in others' places, each pair once."""
    base, now, first = state.layer * state.num_experts, clock.now_ns, clock.log_size
    for token in range(state.num_tokens):
        for rank in range(state.token_ranks[token]):
            routed, executed = base + state.ids[token, rank], state.executed_ids[token, rank]
            if executed == DROPPED or base + executed == routed:
                continue
            row = first
            while row < clock.log_size and (clock.log[row, 1] != routed or clock.log[row, 4] != executed):
                row += 1
            if row == clock.log_size:
                note(clock, LOG_STAND_IN, routed, now, now, executed)


@core_jit
def note_constants(clock: Clock, key: int) -> None:
    """Keep the constants at the end of a layer, one after the other."""
    begin_ns = clock.now_ns
    for part in range(len(PARTS)):
        spent_ns = clock.after_parts_ns[part]
        if spent_ns > 0:
            note(clock, LOG_PART, key, begin_ns, begin_ns + spent_ns, part)
        begin_ns += spent_ns


@core_jit
def read_expert(state: State, clock: Clock, layer: int, expert: int, at_ns: int, extra: int) -> int:
    """Let storage read an expert behind all that it was asked for -> when it is done."""
    end_ns: int = ask_storage(clock, layer, at_ns)
    if clock.logs:
        note(clock, LOG_READ, layer * state.num_experts + expert, end_ns - clock.read_ns[layer], end_ns, extra)
    return end_ns


@core_jit
def wait_for_pieces(state: State, cache: Cache, clock: Clock, what: int, at_ns: int, copy_ns: int) -> None:
    """The copy that starts sends pieces as storage reads them, a prefetch's from now on."""
    layer, expert = cache.copy_layer, cache.copy_expert
    if what == core.DEMAND_COPY:
        ready_ns = clock.ready_ns[expert]
    else:
        ready_ns = read_expert(state, clock, layer, expert, at_ns, 1)
    begin_ns, lead_ns, piece_ns = clock.link_begin_ns, clock.lead_ns[layer], clock.piece_ns[layer]
    clock.link_end_ns = arrival(begin_ns, copy_ns, ready_ns, lead_ns, piece_ns)
    clock.link_wait_ns = clock.link_end_ns - begin_ns - copy_ns


@core_jit
def read_missing(state: State, cache: Cache, clock: Clock) -> None:
    """Ask storage for what the layer step misses and host memory lacks."""
    for i in range(cache.num_reads):
        expert = cache.read_queue[i]
        clock.ready_ns[expert] = read_expert(state, clock, state.layer, expert, clock.now_ns, 0)


@core_jit
def start_copy(state: State, cache: Cache, rules: Rules, clock: Clock, at_ns: int) -> None:
    """If the link is free, start the next copy that is queued and finds a slot."""
    if clock.link_state != LINK_IDLE:
        return
    what = core.next_copy(state, cache, rules)
    if what <= core.WAIT:
        return
    key, kind = cache.copy_layer * state.num_experts + cache.copy_expert, cache.copy_kind
    copy_ns = clock.copy_ns[kind, 1 if clock.cpu_left > 0 else 0, cache.copy_layer]
    clock.link_state = LINK_COPY
    clock.link_begin_ns = at_ns + cache.back_ns if clock.write_back == BACK_SERIAL else at_ns
    clock.link_end_ns, clock.link_wait_ns = clock.link_begin_ns + copy_ns, 0
    if clock.reads and cache.copy_is_read:
        wait_for_pieces(state, cache, clock, what, at_ns, copy_ns)
    clock.back_end_ns = at_ns + cache.back_ns if clock.write_back == BACK_OVERLAP else 0
    if clock.logs and cache.back_ns > 0:
        note(clock, LOG_BACK, key, at_ns, at_ns + cache.back_ns, 0)
    if clock.logs:
        log_kind = LOG_COPY if what == core.DEMAND_COPY else LOG_PREFETCH
        begin_ns = clock.link_begin_ns + clock.link_wait_ns
        note(clock, log_kind, key, begin_ns, clock.link_end_ns, kind + STAGED_COPY * cache.copy_is_staged)


@core_jit
def link_event(state: State, cache: Cache, rules: Rules, clock: Clock) -> None:
    """What the link did is done: a copy or a chunk of one has arrived, or its victims are written back."""
    at_ns = clock.link_end_ns
    if clock.link_state == LINK_COPY:
        clock.link_busy_ns += at_ns - clock.link_begin_ns - clock.link_wait_ns
        if core.finish_copy(state, cache) and cache.copy_layer == state.layer:
            clock.arrived_at[cache.copy_expert] = state.now
            clock.read_late_ns[cache.copy_expert] = clock.link_wait_ns
        if clock.back_end_ns > at_ns:
            clock.link_state, clock.link_end_ns = LINK_BLOCKED, clock.back_end_ns
            return
    clock.link_state = LINK_IDLE
    start_copy(state, cache, rules, clock, at_ns)


@core_jit
def tell_link(cache: Cache, clock: Clock) -> None:
    """Tell the decisions what is left of the copy on the link."""
    cache.link_left_ns = 0
    if clock.link_state == LINK_COPY:
        cache.link_left_ns = clock.link_end_ns - clock.now_ns
        cache.link_copy_ns = clock.link_end_ns - clock.link_begin_ns


@core_jit
def stop_copy(state: State, cache: Cache, clock: Clock) -> None:
    """The copy on the link stops now; the link is free once the victims that made room for it are written back."""
    stop_ns = max(clock.now_ns, clock.link_begin_ns)
    clock.link_busy_ns += max(0, stop_ns - clock.link_begin_ns - clock.link_wait_ns)
    if clock.logs:
        row, key = clock.log_size - 1, cache.copy_layer * state.num_experts + cache.copy_expert
        while clock.log[row, 0] != LOG_PREFETCH or clock.log[row, 1] != key:
            row -= 1
        clock.log[row, 3] = max(stop_ns, clock.log[row, 2])
    free_ns = max(clock.back_end_ns, clock.link_begin_ns)
    clock.link_state = LINK_IDLE
    if free_ns > clock.now_ns:
        clock.link_state, clock.link_end_ns = LINK_BLOCKED, free_ns


@core_jit
def start_cpu(state: State, cache: Cache, clock: Clock, at_ns: int) -> None:
    """Let the CPU compute the next expert of its queue."""
    expert = cache.cpu_queue[clock.cpu_next]
    busy = 1 if clock.link_state == LINK_COPY else 0
    compute_ns = clock.cpu_ns[busy, state.layer, cache.tokens_of[expert]]
    if clock.reads and cache.read_at[expert] == state.now and clock.ready_ns[expert] > at_ns:
        clock.cpu_wait_ns += clock.ready_ns[expert] - at_ns
        at_ns = clock.ready_ns[expert]
    clock.cpu_end_ns = at_ns + compute_ns
    clock.cpu_busy_ns += compute_ns
    if clock.logs:
        note(clock, LOG_CPU, state.layer * state.num_experts + expert, at_ns, clock.cpu_end_ns, 0)


@core_jit
def cpu_event(state: State, cache: Cache, clock: Clock) -> None:
    """The CPU has finished an expert."""
    clock.cpu_left -= 1
    clock.cpu_next += 1
    if clock.cpu_left > 0:
        start_cpu(state, cache, clock, clock.cpu_end_ns)


@core_jit
def next_event(state: State, cache: Cache, rules: Rules, clock: Clock, until_ns: int) -> int:
    """Let the next thing happen on link or CPU, if not after ``until_ns`` -> when it did, or -1."""
    link_ns = clock.link_end_ns if clock.link_state != LINK_IDLE else FOREVER
    cpu_ns = clock.cpu_end_ns if clock.cpu_left > 0 else FOREVER
    if min(link_ns, cpu_ns) > until_ns:
        return -1
    if link_ns <= cpu_ns:
        link_event(state, cache, rules, clock)
        return int(link_ns)
    cpu_event(state, cache, clock)
    return int(cpu_ns)


@core_jit
def catch_up(state: State, cache: Cache, rules: Rules, clock: Clock) -> None:
    """Let everything happen that happened on link and CPU until the GPU's time."""
    while clock.link_state != LINK_IDLE or clock.cpu_left > 0:
        if next_event(state, cache, rules, clock, clock.now_ns) < 0:
            return


@core_jit
def wait_for_copy(state: State, cache: Cache, rules: Rules, clock: Clock, expert: int) -> None:
    """Let the GPU wait until an expert has arrived."""
    at_ns = clock.now_ns
    while clock.arrived_at[expert] != state.now:
        at_ns = next_event(state, cache, rules, clock, FOREVER - 1)
        if at_ns < 0:
            raise RuntimeError("the GPU waits for an expert that nothing brings")
    if at_ns > clock.now_ns:
        book_wait(state, clock, expert, at_ns)


@core_jit
def book_wait(state: State, clock: Clock, expert: int, until_ns: int) -> None:
    """The GPU has waited for an expert: for storage as far as the copy did, the rest for the link."""
    key, wait_ns = state.layer * state.num_experts + expert, until_ns - clock.now_ns
    if clock.reads and clock.arrived_at[expert] == state.now:
        late_ns = min(wait_ns, clock.read_late_ns[expert])
        book(clock, STORAGE_WAIT, late_ns, key)
        wait_ns -= late_ns
    book(clock, LINK_WAIT, wait_ns, key)


@core_jit
def wait_for_copies(state: State, cache: Cache, rules: Rules, clock: Clock) -> None:
    """Let the GPU wait until all missing experts have arrived, or until the next one needs a slot that they hold."""
    for i in range(cache.num_ready, cache.num_gpu):
        expert, at_ns = cache.gpu_queue[i], clock.now_ns
        while clock.arrived_at[expert] != state.now and clock.link_state != LINK_IDLE:
            at_ns = next_event(state, cache, rules, clock, FOREVER - 1)
        if at_ns > clock.now_ns:
            book_wait(state, clock, expert, at_ns)


@core_jit
def wait_for_cpu(state: State, cache: Cache, rules: Rules, clock: Clock) -> None:
    """Let the GPU wait until the CPU has computed its experts."""
    while clock.cpu_left > 0:
        at_ns = next_event(state, cache, rules, clock, FOREVER - 1)
        if clock.cpu_left == 0 and at_ns > clock.now_ns:
            key = state.layer * state.num_experts + cache.cpu_queue[cache.num_cpu - 1]
            late_ns = min(at_ns - clock.now_ns, clock.cpu_wait_ns)
            book(clock, STORAGE_WAIT, late_ns, key)
            book(clock, CPU_WAIT, at_ns - clock.now_ns, key)


@core_jit
def run_expert(state: State, cache: Cache, clock: Clock, expert: int, run_ns: int) -> None:
    """Execute an expert on the GPU."""
    begin_ns = clock.now_ns
    spend(clock, LAUNCH, clock.expert_launch_ns)
    spend(clock, EXPERT, run_ns)
    if clock.logs:
        key = state.layer * state.num_experts + expert
        note(clock, LOG_EXPERT, key, begin_ns, clock.now_ns, cache.tokens_of[expert])


@core_jit
def layer_step(state: State, cache: Cache, rules: Rules, clock: Clock, layer: int, kv_tokens: int, pairs: int) -> None:
    """One layer of a forward pass. ``end_step`` books its constants to their parts."""
    begin_ns, tokens, key = clock.now_ns, state.num_tokens, layer * state.num_experts
    weights_ns = clock.attention_ns[layer, tokens]
    spend(clock, ATTENTION, attention_time(weights_ns, kv_tokens, clock.kv_ps_per_token, pairs, clock.pair_ps))
    clock.now_ns += clock.before_lookup_ns
    catch_up(state, cache, rules, clock)
    if clock.logs:
        note(clock, LOG_LAYER, layer, begin_ns, clock.now_ns, tokens)
    tell_link(cache, clock)
    core.begin(state, cache, rules, layer)
    if cache.stops_copy:
        stop_copy(state, cache, clock)
    if clock.logs:
        note_lookup(state, cache, clock)
    clock.cpu_left, clock.cpu_next, clock.cpu_wait_ns = cache.num_cpu, 0, 0
    if clock.reads:
        read_missing(state, cache, clock)
    start_copy(state, cache, rules, clock, clock.now_ns)
    if cache.num_cpu > 0:
        start_cpu(state, cache, clock, clock.now_ns + clock.cpu_transfer_ns[tokens])
    book(clock, HOST, cache.num_demand_copies * clock.call_ns, key)
    if clock.cpu_first:
        wait_for_cpu(state, cache, rules, clock)
    book(clock, EXPERT, clock.shared_ns[layer, tokens], key)
    for i in range(cache.num_gpu):
        expert = cache.gpu_queue[i]
        if i == cache.num_ready and clock.after_last_copy:
            wait_for_copies(state, cache, rules, clock)
        if i >= cache.num_ready:
            wait_for_copy(state, cache, rules, clock, expert)
        run_expert(state, cache, clock, expert, cache.run_ns[i])
        if cache.may_release and (cache.staged[expert] or cache.transient[expert]):
            catch_up(state, cache, rules, clock)
            core.finish_expert(state, cache, expert)
            start_copy(state, cache, rules, clock, clock.now_ns)
    wait_for_cpu(state, cache, rules, clock)
    if clock.logs:
        note_constants(clock, key)
    clock.now_ns += clock.after_experts_ns
    catch_up(state, cache, rules, clock)
    tell_link(cache, clock)
    core.end(state, cache, rules)
    start_copy(state, cache, rules, clock, clock.now_ns)


@core_jit
def draft(clock: Clock, passes: int, requests: int) -> None:
    """The passes of the draft ahead of a step."""
    held = min(requests, clock.draft_parts_ns.shape[0] - 1)
    for part in range(len(PARTS)):
        spent_ns = passes * clock.draft_parts_ns[held, part]
        if clock.logs and spent_ns > 0:
            note(clock, LOG_DRAFT, passes, clock.now_ns, clock.now_ns + spent_ns, part)
        spend(clock, part, spent_ns)


@core_jit
def stream_step(state: State, cache: Cache, rules: Rules, clock: Clock, kv_tokens: int, pairs: int) -> None:
    """All layers of a prompt that is streamed past the cache through two buffers, each of a whole layer's experts:
    while the GPU computes one layer the link fills the other buffer."""
    at_ns, tokens = clock.now_ns, state.num_tokens
    while clock.link_state != LINK_IDLE:  # a copy that was under way
        at_ns = next_event(state, cache, rules, clock, FOREVER - 1)
    if at_ns > clock.now_ns:
        spend(clock, LINK_WAIT, at_ns - clock.now_ns)
    arrival_ns = free_ns = next_free_ns = clock.now_ns
    for layer in range(state.num_layers):
        copy_ns = state.num_experts * clock.copy_ns[FULL, 0, layer]
        arrival_ns = max(arrival_ns, free_ns) + copy_ns  # the link is free, and so is the buffer
        clock.link_busy_ns += copy_ns
        core.stream_layer(state, cache, layer)
        weights_ns = clock.attention_ns[layer, tokens]
        spend(clock, ATTENTION, attention_time(weights_ns, kv_tokens, clock.kv_ps_per_token, pairs, clock.pair_ps))
        clock.now_ns += clock.before_lookup_ns
        spend(clock, HOST, clock.call_ns)
        spend(clock, EXPERT, clock.shared_ns[layer, tokens])
        if arrival_ns > clock.now_ns:
            spend(clock, LINK_WAIT, arrival_ns - clock.now_ns)
        for i in range(cache.num_gpu):
            spend(clock, LAUNCH, clock.expert_launch_ns)
            spend(clock, EXPERT, cache.run_ns[i])
        clock.now_ns += clock.after_experts_ns
        free_ns, next_free_ns = next_free_ns, clock.now_ns


@core_jit
def end_step(state: State, cache: Cache, rules: Rules, clock: Clock) -> None:
    """Close a forward pass: the parts of its layers' constants, the head, what link and CPU did meanwhile."""
    for part in range(len(PARTS)):
        clock.parts[part] += state.num_layers * clock.layer_parts_ns[part]
    book(clock, ATTENTION, clock.head_ns[state.num_tokens], (state.num_layers - 1) * state.num_experts)
    catch_up(state, cache, rules, clock)


@core_jit
def copy_to(target: NDArray[Any], source: NDArray[Any]) -> None:
    """target = source, element by element."""
    for i in range(source.shape[0]):
        target[i] = source[i]


@core_jit
def growth_to(target: NDArray[Any], source: NDArray[Any]) -> None:
    """target, which holds an earlier copy of source = what source has grown by since."""
    for i in range(source.shape[0]):
        target[i] = source[i] - target[i]


@njit(
    i8(
        i8, i8, i8, i8, b1, i8, i8, i8[::1], i8[::1], u1[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1],
        i8[::1],
        IDS, SCORES, SCORES, AHEAD, TIMES,
        i8[::1], i8[:, ::1], i8[:, ::1], f8[:, ::1],
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def run_steps(
    state_address: int, cache_address: int, rules_address: int, clock_address: int,
    fresh: bool, first: int, stop: int, totals: Any,
    bounds: Any, phases: Any, groups: Any, kv_tokens: Any, pairs: Any, pause_ns: Any, pool_bytes: Any,
    requests: Any, passes: Any,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
    latency_ns: Any, parts: Any, counts: Any, lost: Any,
) -> int:  # fmt: skip
    """Replay steps ``first`` to ``stop`` of a block -> the first one not replayed.

    ``fresh``: what was on the link is void. Inputs as in ``StepBlock`` and ``BlockData`` of ``sim.workload``; outputs
    latency_ns [S], parts [S, len(PARTS)], counts [S, counters] and lost [S, 3] of each step; totals [4]: ns that the
    link was busy with what has arrived, ns that the CPU was, slices logged, ns that storage was busy. Stops early
    where the log is nearly full.
    """
    state, cache = as_state(state_address), as_cache(cache_address)
    rules, clock = as_rules(rules_address), as_clock(clock_address)
    room = log_rows(state.num_layers, state.num_experts, cache.num_chunks, state.executed_ids.size)
    step = first
    clock.log_size = 0
    if fresh:
        clock.link_state = LINK_IDLE
    while step < stop and (clock.logs == 0 or clock.log_size + room <= clock.log.shape[0]):
        a, b = bounds[step], bounds[step + 1]
        core.load(
            state, cache, ids[a:b],
            weights[a:b] if weights.shape[0] > 0 else weights,
            scores[a:b] if scores.shape[0] > 0 else scores,
            lookahead[a:b] if lookahead.shape[0] > 0 else lookahead,
            next_use[a:b] if next_use.shape[0] > 0 else next_use,
        )  # fmt: skip
        core.enter(state, cache, phases[step], groups[step], requests[step])
        clock.now_ns += pause_ns[step]
        begin_ns = clock.now_ns
        clock.parts[:] = 0
        copy_to(counts[step], cache.counts)
        copy_to(lost[step], cache.lost)
        core.prepare(state, cache, rules, pool_bytes[step] if pool_bytes.shape[0] > 0 else -1)
        if passes[step] > 0:
            if cache.foresees:
                catch_up(state, cache, rules, clock)
                tell_link(cache, clock)
                core.foresee(state, cache, rules)
                start_copy(state, cache, rules, clock, clock.now_ns)
            draft(clock, passes[step], requests[step])
        if cache.streamed:
            stream_step(state, cache, rules, clock, kv_tokens[step], pairs[step])
        elif clock.is_lean and b - a == 1 and cache.is_static == 0:
            lean_step(state, cache, rules, clock, kv_tokens[step], pairs[step])
        else:
            for layer in range(state.num_layers):
                layer_step(state, cache, rules, clock, layer, kv_tokens[step], pairs[step])
        end_step(state, cache, rules, clock)
        latency_ns[step] = clock.now_ns - begin_ns
        copy_to(parts[step], clock.parts)
        growth_to(counts[step], cache.counts)
        growth_to(lost[step], cache.lost)
        step += 1
    totals[0], totals[1], totals[2], totals[3] = (
        clock.link_busy_ns,
        clock.cpu_busy_ns,
        clock.log_size,
        clock.storage_busy_ns,
    )
    return step
