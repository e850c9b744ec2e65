"""The decision core as Python calls it: structs by address, which costs a tenth of passing them as objects."""

from __future__ import annotations

from typing import Any

from numba import i4, i8, njit, void

from sim.engine.decision import core
from sim.engine.decision.layout import AHEAD, IDS, SCORES, TIMES, as_machine, as_rules, as_state


@njit(void(i8, i8, i8, i4[::1]), cache=True)
def fill(s: int, m: int, r: int, order: Any) -> None:
    core.fill(as_state(s), as_machine(m), as_rules(r), order)


@njit(void(i8, i8, i8, i8), cache=True)
def forget(s: int, m: int, r: int, staging_slots: int) -> None:
    core.forget(as_state(s), as_machine(m), staging_slots)


@njit(void(i8, i8, i8, i8, i8, IDS, SCORES, SCORES, AHEAD, TIMES), cache=True)
def load(
    s: int, m: int, r: int, phase: int, group: int, ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any
) -> None:
    core.load(as_state(s), as_machine(m), ids, weights, scores, lookahead, next_use)
    core.enter(as_state(s), as_machine(m), phase, group)


@njit(void(i8, i8, i8, i8), cache=True)
def begin(s: int, m: int, r: int, layer: int) -> None:
    core.begin(as_state(s), as_machine(m), as_rules(r), layer)


@njit(i8(i8, i8, i8), cache=True)
def next_copy(s: int, m: int, r: int) -> int:
    return int(core.next_copy(as_state(s), as_machine(m), as_rules(r)))


@njit(i8(i8, i8, i8), cache=True)
def copy_done(s: int, m: int, r: int) -> int:
    return int(core.copy_done(as_state(s), as_machine(m)))


@njit(void(i8, i8, i8, i8), cache=True)
def executed(s: int, m: int, r: int, expert: int) -> None:
    core.executed(as_state(s), as_machine(m), expert)


@njit(void(i8, i8, i8), cache=True)
def end(s: int, m: int, r: int) -> None:
    core.end(as_state(s), as_machine(m), as_rules(r))
