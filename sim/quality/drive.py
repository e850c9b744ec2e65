"""Compiled loops that drive the decision core from inside a forward pass: nothing of a rule is written here."""

from __future__ import annotations

from typing import Any

from numba import i4, i8, njit, void

from policies.hashing import uniform
from policies.state import DECODE, DROPPED, RESIDENT
from sim.engine.clocks.recurrence import book, catch_up, layer_step
from sim.engine.clocks.untimed_engine import untimed_layer
from sim.engine.decision import core
from sim.engine.decision.counters import ATTENTION
from sim.engine.decision.layout import AHEAD, IDS, SCORES, TIMES, as_clock, as_machine, as_rules, as_state

AS_RULED, DROP, RANDOM = range(3)
"""What is executed in place of a replaced expert: the rule's choice; nothing; a resident expert drawn at random."""
EXECUTED = i4[:, ::1]


@njit(cache=True)
def replaced(s: Any, executed: Any, token: int, rank: int) -> bool:
    """Whether the rule executes another expert than the one routed."""
    chosen = executed[token, rank]
    return bool(chosen != s.ids[token, rank] and chosen != DROPPED)


@njit(cache=True)
def drop_replaced(s: Any, executed: Any) -> None:
    """Execute nothing where the rule executes a substitute; a token that would lose all of its experts keeps one."""
    for token in range(s.num_tokens):
        left = 0
        for rank in range(s.num_ranks):
            if replaced(s, executed, token, rank):
                executed[token, rank] = DROPPED
            left += executed[token, rank] != DROPPED
        if left == 0:
            executed[token, 0] = s.ids[token, 0]


@njit(cache=True)
def in_use(s: Any, executed: Any, token: int, expert: int) -> bool:
    """Whether the router gave the token this expert, or the token executes it."""
    found = False
    for rank in range(s.num_ranks):
        found = found or s.ids[token, rank] == expert or executed[token, rank] == expert
    return found


@njit(cache=True)
def draw(s: Any, m: Any, executed: Any, token: int, rank: int) -> int:
    """A resident expert for the place of a substitute: one the layer step did not need, or the substitute itself."""
    own, first = executed[token, rank], s.layer * s.num_experts
    executed[token, rank] = s.ids[token, rank]
    count = 0
    for turn in range(2):
        wanted = int(uniform(s.seed, s.now, token, rank) * count) if turn else -1
        count = 0
        for expert in range(s.num_experts):
            idle = m.executed_at[expert] != s.now or expert == own
            if m.status[first + expert] == RESIDENT and idle and not in_use(s, executed, token, expert):
                if count == wanted:
                    return expert
                count += 1
    return int(own)


@njit(cache=True)
def note_executed(s: Any, m: Any, stand_in: int, executed: Any) -> None:
    """Copy what the layer step executes to ``executed`` [B, K], with the stand-in for what the rule replaced."""
    for token in range(s.num_tokens):
        for rank in range(s.num_ranks):
            executed[token, rank] = s.executed_ids[token, rank]
    if stand_in == DROP:
        drop_replaced(s, executed)
    elif stand_in == RANDOM:
        for token in range(s.num_tokens):
            for rank in range(s.num_ranks):
                if replaced(s, executed, token, rank):
                    executed[token, rank] = draw(s, m, executed, token, rank)


@njit(void(i8, i8, i8, i8, i8, i8, i8, IDS, SCORES, SCORES, AHEAD, TIMES, EXECUTED), cache=True)
def layer_over_tokens(
    state: int, machine: int, rules: int, layer: int, first_step: int, group: int, stand_in: int,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any, executed: Any,
) -> None:  # fmt: skip
    """One layer of T decode steps, one token each -> ``executed`` [T, K]. Exact where layers do not affect each other.

    Time is counted as if all layers of a token ran before the next token; no clock.
    """
    s, m, r = as_state(state), as_machine(machine), as_rules(rules)
    for token in range(ids.shape[0]):
        one = slice(token, token + 1)
        core.load(
            s, m, ids[one],
            weights[one] if weights.shape[0] > 0 else weights,
            scores[one] if scores.shape[0] > 0 else scores,
            lookahead, next_use,
        )  # fmt: skip
        s.phase, s.group, s.step = DECODE, group, first_step + token
        s.now = s.step * s.num_layers + layer
        untimed_layer(s, m, r, layer)
        note_executed(s, m, stand_in, executed[one])


@njit(void(i8, i8, i8, i8, i8, IDS, SCORES, SCORES, AHEAD, TIMES), cache=True)
def begin_step(
    state: int, machine: int, clock: int, phase: int, group: int,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
) -> None:  # fmt: skip
    """Begin a forward pass; the caller fills each layer of the arrays before ``time_layer`` reads it."""
    core.load(as_state(state), as_machine(machine), ids, weights, scores, lookahead, next_use)
    core.enter(as_state(state), as_machine(machine), phase, group)
    as_clock(clock).parts[:] = 0


@njit(void(i8, i8, i8, i8, i8, i8, i8, i8, EXECUTED), cache=True)
def time_layer(
    state: int, machine: int, rules: int, clock: int, layer: int, kv_tokens: int, pairs: int, stand_in: int,
    executed: Any,
) -> None:  # fmt: skip
    """One layer of the step on the clock -> ``executed`` [B, K]."""
    s, m = as_state(state), as_machine(machine)
    layer_step(s, m, as_rules(rules), as_clock(clock), layer, kv_tokens, pairs)
    note_executed(s, m, stand_in, executed)


@njit(void(i8, i8, i8, i8), cache=True)
def end_step(state: int, machine: int, rules: int, clock: int) -> None:
    """Close the forward pass: the head, and what link and CPU did meanwhile."""
    s, m, r, c = as_state(state), as_machine(machine), as_rules(rules), as_clock(clock)
    book(c, ATTENTION, c.head_ns[s.num_tokens], (s.num_layers - 1) * s.num_experts)
    catch_up(s, m, r, c)
