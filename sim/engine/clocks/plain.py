"""The recurrence compiled once more for the usual case: steps of one token, no drive, no timeline, no write-back.

The functions are those of ``recurrence`` and ``sim.engine.decision``; what they take says which fields are known, so
that loops over tokens and what cannot happen are left out of the machine code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import njit

from sim.engine.clocks.clock import as_plain_clock
from sim.engine.clocks.recurrence import STEPS, replay_steps
from sim.engine.decision.device import Device
from sim.engine.decision.layout import ABSENT_FEATURES, as_one_cache, as_one_rules, as_one_state


def is_plain(device: Device) -> bool:
    """Whether steps of one token can go through ``run_plain_steps`` where no timeline is kept."""
    spec = device.spec
    absent = all(device.cache.get(flag) == 0 for flag in ABSENT_FEATURES)
    return absent and spec.policy.write_back == "none" and spec.host is None


def run_plain_steps(
    state: int, cache: int, rules: int, clock: int, fresh: bool, first: int, stop: int, totals: Any,
    bounds: Any, phases: Any, groups: Any, kv_tokens: Any, pairs: Any, pause_ns: Any, pool_bytes: Any,
    requests: Any, passes: Any, ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
    latency_ns: Any, parts: Any, counts: Any, lost: Any,
) -> int:  # fmt: skip
    """``replay_steps`` for steps of one token on a device that ``is_plain``."""
    return int(replay_steps(
        as_one_state(state), as_one_cache(cache), as_one_rules(rules), as_plain_clock(clock),
        fresh, first, stop, totals, bounds, phases, groups, kv_tokens, pairs, pause_ns, pool_bytes, requests, passes,
        ids, weights, scores, lookahead, next_use, latency_ns, parts, counts, lost,
    ))  # fmt: skip


@functools.cache
def plain_steps() -> Callable[..., int]:
    """``run_plain_steps`` as machine code, compiled when first asked for."""
    compiled: Callable[..., int] = njit(STEPS, cache=True, nogil=True)(run_plain_steps)
    return compiled
