"""The decision core as Python calls it: structs by address, which costs a tenth of passing them as objects.

Each is compiled when it is first called: the compiled engine calls few of them.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from sim.engine.decision import core, host
from sim.engine.decision.layout import as_cache, as_rules, as_state


@njit(cache=True)
def fill(state: int, cache: int, rules: int, order: Any) -> None:
    core.fill(as_state(state), as_cache(cache), as_rules(rules), order)


@njit(cache=True)
def open_host(state: int, cache: int, rules: int, warm: bool) -> None:
    host.open_host(as_state(state), as_cache(cache), warm)


@njit(cache=True)
def void_copies(state: int, cache: int, rules: int, staging_slots: int) -> None:
    core.void_copies(as_state(state), as_cache(cache), staging_slots)


@njit(cache=True)
def load(
    state: int, cache: int, rules: int, phase: int, group: int, requests: int, pool_bytes: int,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
) -> None:  # fmt: skip
    core.load(as_state(state), as_cache(cache), ids, weights, scores, lookahead, next_use)
    core.enter(as_state(state), as_cache(cache), phase, group, requests)
    core.prepare(as_state(state), as_cache(cache), as_rules(rules), pool_bytes)


@njit(cache=True)
def begin(state: int, cache: int, rules: int, layer: int, link_left_ns: int, link_copy_ns: int) -> None:
    bookkeeping = as_cache(cache)
    bookkeeping.link_left_ns, bookkeeping.link_copy_ns = link_left_ns, link_copy_ns
    core.begin(as_state(state), bookkeeping, as_rules(rules), layer)


@njit(cache=True)
def stream_layer(state: int, cache: int, rules: int, layer: int) -> None:
    core.stream_layer(as_state(state), as_cache(cache), layer)


@njit(cache=True)
def foresee(state: int, cache: int, rules: int) -> None:
    core.foresee(as_state(state), as_cache(cache), as_rules(rules))


@njit(cache=True)
def next_copy(state: int, cache: int, rules: int) -> int:
    return int(core.next_copy(as_state(state), as_cache(cache), as_rules(rules)))


@njit(cache=True)
def finish_copy(state: int, cache: int, rules: int) -> int:
    return int(core.finish_copy(as_state(state), as_cache(cache)))


@njit(cache=True)
def finish_expert(state: int, cache: int, rules: int, expert: int) -> None:
    core.finish_expert(as_state(state), as_cache(cache), expert)


@njit(cache=True)
def end(state: int, cache: int, rules: int) -> None:
    core.end(as_state(state), as_cache(cache), as_rules(rules))
