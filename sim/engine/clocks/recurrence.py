"""The model as one compiled recurrence: GPU, link and CPU of one device, the same rules and the same nanoseconds.

The GPU's time runs ahead; what happened on the link and on the CPU meanwhile is caught up with, in order of time,
whenever the GPU needs to know: at a lookup, while it waits, when an expert gives something up, at the end of a layer.
Where several things happen at the same instant the link goes first, then the CPU, then the GPU, as in the SimPy engine.
"""

from __future__ import annotations

from typing import Any

from numba import b1, f8, i8, njit, u1
from numba.extending import register_jitable

from sim.engine.clocks import timeline_log
from sim.engine.clocks.timeline_log import (
    BACK_OVERLAP,
    BACK_SERIAL,
    LOG_BACK,
    LOG_COPY,
    LOG_CPU,
    LOG_EXPERT,
    LOG_HELD,
    LOG_LAYER,
    LOG_OUTCOME,
    LOG_PART,
    LOG_PREFETCH,
    LOG_QUEUE,
    STAGED_COPY,
)
from sim.engine.decision import core
from sim.engine.decision.counters import ATTENTION, CPU_WAIT, EXPERT, HOST, LAUNCH, LINK_WAIT, SYNC
from sim.engine.decision.layout import AHEAD, IDS, SCORES, TIMES, as_clock, as_machine, as_rules, as_state
from sim.engine.decision.lean import lean_step
from sim.engine.decision.struct_views import core_jit
from sim.machine import attention

attention_time = register_jitable(attention.attention_time)
log_rows = register_jitable(timeline_log.log_rows)
LINK_IDLE, LINK_COPY, LINK_BLOCKED = range(3)
"""States of the link: free; copying; waiting until the victims of its last copy are home."""
FOREVER = 2**62


@core_jit
def note(c: Any, kind: int, what: int, begin_ns: int, end_ns: int, extra: int) -> None:
    """Keep a slice of the timeline."""
    i, log = c.log_size, c.log
    log[i, 0], log[i, 1], log[i, 2], log[i, 3], log[i, 4] = kind, what, begin_ns, end_ns, extra
    c.log_size = i + 1


@core_jit
def spend(c: Any, part: int, amount_ns: int) -> None:
    """Let the GPU's time advance, booked to a part."""
    c.parts[part] += amount_ns
    c.now_ns += amount_ns


@core_jit
def book(c: Any, part: int, amount_ns: int, key: int) -> None:
    """``spend`` as a slice of its own in the timeline."""
    if c.logs and amount_ns > 0:
        note(c, LOG_PART, key, c.now_ns, c.now_ns + amount_ns, part)
    spend(c, part, amount_ns)


@core_jit
def note_lookup(s: Any, m: Any, c: Any) -> None:
    """Keep what a lookup found: outcomes, queues, what occupies slots."""
    base, now = s.layer * s.num_experts, c.now_ns
    for i in range(s.num_demand):
        note(c, LOG_OUTCOME, base + s.demand[i], now, now, m.outcome[i])
    note(c, LOG_QUEUE, m.demand_tail - m.demand_head, now, now, m.prefetch_tail - m.prefetch_head)
    note(c, LOG_HELD, m.member_count.sum(), now, now, m.used.sum())


@core_jit
def start_copy(s: Any, m: Any, r: Any, c: Any, at_ns: int) -> None:
    """If the link is free, start the next copy that is queued and finds a slot."""
    if c.link_state != LINK_IDLE:
        return
    code = core.next_copy(s, m, r)
    if code <= core.WAIT:
        return
    key, kind, what = core.decode_copy(code)
    copy_ns = c.copy_ns[kind, 1 if c.cpu_left > 0 else 0, m.copy_layer]
    c.link_state = LINK_COPY
    c.link_begin_ns = at_ns + m.back_ns if c.write_back == BACK_SERIAL else at_ns
    c.link_end_ns = c.link_begin_ns + copy_ns
    c.back_end_ns = at_ns + m.back_ns if c.write_back == BACK_OVERLAP else 0
    if c.logs and m.back_ns > 0:
        note(c, LOG_BACK, key, at_ns, at_ns + m.back_ns, 0)
    if c.logs:
        log_kind = LOG_COPY if what == core.DEMAND_COPY else LOG_PREFETCH
        note(c, log_kind, key, c.link_begin_ns, c.link_end_ns, kind + STAGED_COPY * m.copy_staged)


@core_jit
def link_event(s: Any, m: Any, r: Any, c: Any) -> None:
    """What the link did is done: a copy or a piece of one has arrived, or the victims are home."""
    at_ns = c.link_end_ns
    if c.link_state == LINK_COPY:
        c.link_busy_ns += at_ns - c.link_begin_ns
        if core.copy_done(s, m) and m.copy_layer == s.layer:
            c.arrived_at[m.copy_expert] = s.now
        if c.back_end_ns > at_ns:
            c.link_state, c.link_end_ns = LINK_BLOCKED, c.back_end_ns
            return
    c.link_state = LINK_IDLE
    start_copy(s, m, r, c, at_ns)


@core_jit
def start_cpu(s: Any, m: Any, c: Any, at_ns: int) -> None:
    """Let the CPU compute the next expert of its queue."""
    expert = m.cpu_queue[c.cpu_next]
    busy = 1 if c.link_state == LINK_COPY else 0
    compute_ns = c.cpu_ns[busy, s.layer, m.tokens_of[expert]]
    c.cpu_end_ns = at_ns + compute_ns
    c.cpu_busy_ns += compute_ns
    if c.logs:
        note(c, LOG_CPU, s.layer * s.num_experts + expert, at_ns, c.cpu_end_ns, 0)


@core_jit
def cpu_event(s: Any, m: Any, c: Any) -> None:
    """The CPU has finished an expert."""
    c.cpu_left -= 1
    c.cpu_next += 1
    if c.cpu_left > 0:
        start_cpu(s, m, c, c.cpu_end_ns)


@core_jit
def next_event(s: Any, m: Any, r: Any, c: Any, until_ns: int) -> int:
    """Let the next thing happen on link or CPU, if not after ``until_ns`` -> when it did, or -1."""
    link_ns = c.link_end_ns if c.link_state != LINK_IDLE else FOREVER
    cpu_ns = c.cpu_end_ns if c.cpu_left > 0 else FOREVER
    if min(link_ns, cpu_ns) > until_ns:
        return -1
    if link_ns <= cpu_ns:
        link_event(s, m, r, c)
        return int(link_ns)
    cpu_event(s, m, c)
    return int(cpu_ns)


@core_jit
def catch_up(s: Any, m: Any, r: Any, c: Any) -> None:
    """Let everything happen that happened on link and CPU until the GPU's time."""
    while (c.link_state != LINK_IDLE or c.cpu_left > 0) and next_event(s, m, r, c, c.now_ns) >= 0:
        pass


@core_jit
def wait_for_copy(s: Any, m: Any, r: Any, c: Any, expert: int) -> None:
    """Let the GPU wait until an expert has arrived."""
    at_ns = c.now_ns
    while c.arrived_at[expert] != s.now:
        at_ns = next_event(s, m, r, c, FOREVER - 1)
        if at_ns < 0:
            raise RuntimeError("the GPU waits for an expert that nothing brings")
    if at_ns > c.now_ns:
        book(c, LINK_WAIT, at_ns - c.now_ns, s.layer * s.num_experts + expert)


@core_jit
def run_expert(s: Any, m: Any, c: Any, expert: int, run_ns: int) -> None:
    """Execute an expert on the GPU."""
    begin_ns = c.now_ns
    spend(c, LAUNCH, c.expert_launch_ns)
    spend(c, EXPERT, run_ns)
    if c.logs:
        note(c, LOG_EXPERT, s.layer * s.num_experts + expert, begin_ns, c.now_ns, m.tokens_of[expert])


@core_jit
def layer_step(s: Any, m: Any, r: Any, c: Any, layer: int, kv_tokens: int, pairs: int) -> None:
    """One layer of a forward pass."""
    begin_ns, tokens, key = c.now_ns, s.num_tokens, layer * s.num_experts
    spend(c, ATTENTION, attention_time(c.attention_ns[layer, tokens], kv_tokens, c.kv_ps_per_token, pairs, c.pair_ps))
    spend(c, LAUNCH, c.layer_launch_ns)
    spend(c, SYNC, c.readback_ns)
    spend(c, HOST, c.host_ns)
    catch_up(s, m, r, c)
    if c.logs:
        note(c, LOG_LAYER, layer, begin_ns, c.now_ns, tokens)
    core.begin(s, m, r, layer)
    if c.logs:
        note_lookup(s, m, c)
    ready, gpu, cpu, copies, may_give_up = m.plan[0], m.plan[1], m.plan[2], m.plan[3], m.plan[4]
    c.cpu_left, c.cpu_next = cpu, 0
    start_copy(s, m, r, c, c.now_ns)
    if cpu > 0:
        start_cpu(s, m, c, c.now_ns)
    book(c, HOST, copies * c.call_ns, key)
    book(c, EXPERT, c.shared_ns[layer, tokens], key)
    for i in range(gpu):
        expert = m.gpu_queue[i]
        if i >= ready:
            wait_for_copy(s, m, r, c, expert)
        run_expert(s, m, c, expert, m.run_ns[i])
        if may_give_up and (m.staged[expert] or m.transient[expert]):
            catch_up(s, m, r, c)
            core.executed(s, m, expert)
            start_copy(s, m, r, c, c.now_ns)
    while c.cpu_left > 0:
        at_ns = next_event(s, m, r, c, FOREVER - 1)
        if c.cpu_left == 0 and at_ns > c.now_ns:
            book(c, CPU_WAIT, at_ns - c.now_ns, key)
    book(c, SYNC, c.sync_ns, key)
    catch_up(s, m, r, c)
    core.end(s, m, r)
    start_copy(s, m, r, c, c.now_ns)


@core_jit
def add(total: Any, more: Any) -> None:
    """total += more, without a temporary array."""
    for i in range(more.shape[0]):
        total[i] += more[i]


@core_jit
def subtract(total: Any, less: Any) -> None:
    """total -= less, without a temporary array."""
    for i in range(less.shape[0]):
        total[i] -= less[i]


@njit(
    i8(
        i8, i8, i8, i8, b1, i8, i8, i8[::1], i8[::1], u1[::1], i8[::1], i8[::1], i8[::1],
        IDS, SCORES, SCORES, AHEAD, TIMES,
        i8[::1], i8[:, ::1], i8[:, ::1], f8[:, ::1],
    ),
    cache=True,
)  # fmt: skip
def run_steps(
    state: int, machine: int, rules: int, clock: int, fresh: bool, first: int, stop: int, totals: Any,
    bounds: Any, phases: Any, groups: Any, kv_tokens: Any, pairs: Any,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
    latency_ns: Any, parts: Any, counts: Any, lost: Any,
) -> int:  # fmt: skip
    """Replay steps ``first`` to ``stop`` of a block -> the first one not replayed.

    ``fresh``: what was on the link is void. Inputs as in ``StepBlock`` and ``BlockData`` of ``sim.workload``; outputs
    latency_ns [S], parts [S, 7], counts [S, counters] and lost [S, 2] of each step; totals [3]: ns that the
    link was busy with what has arrived, ns that the CPU was, slices logged. Stops early where the log is nearly full.
    """
    s, m, r, c = as_state(state), as_machine(machine), as_rules(rules), as_clock(clock)
    step, room = first, log_rows(s.num_layers, s.num_experts, m.chunks)
    c.log_size = 0
    if fresh:
        c.link_state = LINK_IDLE
    while step < stop and (c.logs == 0 or c.log_size + room <= c.log.shape[0]):
        a, b = bounds[step], bounds[step + 1]
        core.load(
            s, m, ids[a:b],
            weights[a:b] if weights.shape[0] > 0 else weights,
            scores[a:b] if scores.shape[0] > 0 else scores,
            lookahead[a:b] if lookahead.shape[0] > 0 else lookahead,
            next_use[a:b] if next_use.shape[0] > 0 else next_use,
        )  # fmt: skip
        core.enter(s, m, phases[step], groups[step])
        begin_ns = c.now_ns
        c.parts[:] = 0
        subtract(counts[step], m.counts)
        subtract(lost[step], m.lost)
        if c.lean and b - a == 1:
            lean_step(s, m, r, c, kv_tokens[step], pairs[step])
        else:
            for layer in range(s.num_layers):
                layer_step(s, m, r, c, layer, kv_tokens[step], pairs[step])
        book(c, ATTENTION, c.head_ns[b - a], (s.num_layers - 1) * s.num_experts)
        catch_up(s, m, r, c)
        latency_ns[step] = c.now_ns - begin_ns
        add(parts[step], c.parts)
        add(counts[step], m.counts)
        add(lost[step], m.lost)
        step += 1
    totals[0], totals[1], totals[2] = c.link_busy_ns, c.cpu_busy_ns, c.log_size
    return step
