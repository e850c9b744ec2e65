"""Compiled loops that drive the decision core from inside a forward pass; they contain no rule."""

from __future__ import annotations

from typing import Any

from numba import i4, i8, njit, void

from policies.hashing import uniform
from policies.state import DECODE, DROPPED, RESIDENT, State
from sim.engine.clocks import recurrence
from sim.engine.clocks.clock import as_clock
from sim.engine.clocks.untimed_engine import untimed_layer
from sim.engine.decision import core
from sim.engine.decision.cache import Cache
from sim.engine.decision.layout import AHEAD, IDS, SCORES, TIMES, as_cache, as_rules, as_state

AS_POLICY, DROP, RANDOM = range(3)
"""What is executed in place of a replaced expert: the rule's choice; nothing; a resident expert drawn at random."""
EXECUTED, BOUNDS = i4[:, ::1], i8[::1]


@njit(cache=True)
def replaced(state: State, executed: Any, token: int, rank: int) -> bool:
    """Whether the rule executes another expert than the one routed."""
    chosen = executed[token, rank]
    return bool(chosen != state.ids[token, rank] and chosen != DROPPED)


@njit(cache=True)
def drop_replaced(state: State, executed: Any) -> None:
    """Execute nothing where the rule executes a substitute; a token that would lose all of its experts keeps one."""
    for token in range(state.num_tokens):
        left = 0
        for rank in range(state.num_ranks):
            if replaced(state, executed, token, rank):
                executed[token, rank] = DROPPED
            left += executed[token, rank] != DROPPED
        if left == 0:
            executed[token, 0] = state.ids[token, 0]


@njit(cache=True)
def in_use(state: State, executed: Any, token: int, expert: int) -> bool:
    """Whether the router gave the token this expert, or the token executes it."""
    used = False
    for rank in range(state.num_ranks):
        used = used or state.ids[token, rank] == expert or executed[token, rank] == expert
    return used


@njit(cache=True)
def draw(state: State, cache: Cache, executed: Any, token: int, rank: int) -> int:
    """A resident expert for the place of a substitute: one the layer step did not need, or the substitute itself."""
    substitute, first = executed[token, rank], state.layer * state.num_experts
    executed[token, rank] = state.ids[token, rank]
    count = 0
    for turn in range(2):
        wanted = int(uniform(state.seed, state.now, token, rank) * count) if turn else -1
        count = 0
        for expert in range(state.num_experts):
            idle = cache.executed_at[expert] != state.now or expert == substitute
            if cache.status[first + expert] == RESIDENT and idle and not in_use(state, executed, token, expert):
                if count == wanted:
                    return expert
                count += 1
    return int(substitute)


@njit(cache=True)
def note_executed(state: State, cache: Cache, stand_in: int, executed: Any) -> None:
    """Copy what the layer step executes to ``executed`` [B, K], with the stand-in for what the rule replaced."""
    for token in range(state.num_tokens):
        for rank in range(state.num_ranks):
            executed[token, rank] = state.executed_ids[token, rank]
    if stand_in == DROP:
        drop_replaced(state, executed)
    elif stand_in == RANDOM:
        for token in range(state.num_tokens):
            for rank in range(state.num_ranks):
                if replaced(state, executed, token, rank):
                    executed[token, rank] = draw(state, cache, executed, token, rank)


@njit(void(i8, i8, i8, i8, i8, i8, i8, BOUNDS, IDS, SCORES, SCORES, AHEAD, TIMES, EXECUTED), cache=True)
def layer_over_steps(
    state_address: int, cache_address: int, rules_address: int, layer: int, first_step: int, group: int, stand_in: int,
    bounds: Any, ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any, executed: Any,
) -> None:  # fmt: skip
    """One layer of S decode steps, the tokens ``bounds`` [S + 1] of one request each -> ``executed`` [T, K]. Exact
    where layers do not affect each other.

    Time is counted as if all layers of a step ran before the next step; no clock.
    """
    state, cache, rules = as_state(state_address), as_cache(cache_address), as_rules(rules_address)
    for step in range(bounds.shape[0] - 1):
        row = slice(bounds[step], bounds[step + 1])
        core.load(
            state, cache, ids[row],
            weights[row] if weights.shape[0] > 0 else weights,
            scores[row] if scores.shape[0] > 0 else scores,
            lookahead, next_use,
        )  # fmt: skip
        state.phase, state.group, state.step, state.num_requests = DECODE, group, first_step + step, 1
        state.now = state.step * state.num_layers + layer
        untimed_layer(state, cache, rules, layer)
        note_executed(state, cache, stand_in, executed[row])


@njit(void(i8, i8, i8, i8, i8, IDS, SCORES, SCORES, AHEAD, TIMES), cache=True)
def begin_step(
    state_address: int, cache_address: int, clock_address: int, phase: int, group: int,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
) -> None:  # fmt: skip
    """Begin a forward pass of one request; the caller fills each layer of the arrays before ``time_layer`` reads it."""
    core.load(as_state(state_address), as_cache(cache_address), ids, weights, scores, lookahead, next_use)
    core.enter(as_state(state_address), as_cache(cache_address), phase, group, 1)
    as_clock(clock_address).parts[:] = 0


@njit(void(i8, i8, i8, i8, i8, i8, i8, i8, EXECUTED), cache=True)
def time_layer(
    state_address: int, cache_address: int, rules_address: int, clock_address: int,
    layer: int, kv_tokens: int, pairs: int, stand_in: int, executed: Any,
) -> None:  # fmt: skip
    """One layer of the step on the clock -> ``executed`` [B, K]."""
    state, cache = as_state(state_address), as_cache(cache_address)
    recurrence.layer_step(state, cache, as_rules(rules_address), as_clock(clock_address), layer, kv_tokens, pairs)
    note_executed(state, cache, stand_in, executed)


@njit(void(i8, i8, i8, i8), cache=True)
def end_step(state_address: int, cache_address: int, rules_address: int, clock_address: int) -> None:
    """Close the forward pass: the head, and what link and CPU did meanwhile."""
    state, cache = as_state(state_address), as_cache(cache_address)
    rules, clock = as_rules(rules_address), as_clock(clock_address)
    recurrence.end_step(state, cache, rules, clock)
