"""Replay without a clock: copies arrive at once. For hit counting, published curves and sequential semantics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import b1, i8, njit, void
from numpy.typing import NDArray

from policies.state import State
from sim.engine.decision import core
from sim.engine.decision.cache import Cache
from sim.engine.decision.device import Device, DeviceSpec
from sim.engine.decision.layout import AHEAD, IDS, SCORES, TIMES, Rules, as_cache, as_rules, as_state
from sim.engine.interface import BlockResult
from sim.workload.rows import BlockData
from sim.workload.steps import StepBlock


@njit(cache=True)
def untimed_layer(state: State, cache: Cache, rules: Rules, layer: int) -> None:
    """One layer step: every copy arrives when it starts; experts run when a slot is wanted, else at the end."""
    core.begin(state, cache, rules, layer)
    done = 0
    while True:
        code = core.next_copy(state, cache, rules)
        if code == core.WAIT:
            core.finish_expert(state, cache, cache.gpu_queue[done])
            done += 1
        elif code == core.IDLE:
            break
        else:
            core.finish_copy(state, cache)
    while done < cache.num_gpu:
        core.finish_expert(state, cache, cache.gpu_queue[done])
        done += 1
    core.end(state, cache, rules)
    while core.next_copy(state, cache, rules) != core.IDLE:
        core.finish_copy(state, cache)


@njit(void(i8, i8, i8, b1, IDS, SCORES, SCORES, AHEAD, TIMES), cache=True)
def untimed_step(
    state_address: int, cache_address: int, rules_address: int, sequential: bool,
    ids: Any, weights: Any, scores: Any, lookahead: Any, next_use: Any,
) -> None:  # fmt: skip
    """All layers of one step; with ``sequential`` every (token, rank) is a layer step of its own."""
    state, cache, rules = as_state(state_address), as_cache(cache_address), as_rules(rules_address)
    tokens, layers, ranks = ids.shape
    if cache.foresees:
        core.foresee(state, cache, rules)
        while core.next_copy(state, cache, rules) != core.IDLE:
            core.finish_copy(state, cache)
    for layer in range(layers):
        if cache.streamed:
            core.stream_layer(state, cache, layer)
            continue
        if not sequential:
            untimed_layer(state, cache, rules, layer)
            continue
        for token in range(tokens):
            for rank in range(ranks):
                if ids[token, layer, rank] < 0:  # no access, but its place in the order of accesses
                    state.now += 1
                    continue
                t, k = slice(token, token + 1), slice(rank, rank + 1)
                access = np.ascontiguousarray(ids[t, :, k])
                weight = np.ascontiguousarray(weights[t, :, k]) if weights.shape[0] > 0 else weights
                score = np.ascontiguousarray(scores[t]) if scores.shape[0] > 0 else scores
                future = np.ascontiguousarray(next_use[t, :, k]) if next_use.shape[0] > 0 else next_use
                core.load(state, cache, access, weight, score, lookahead, future)
                untimed_layer(state, cache, rules, layer)


class UntimedEngine:
    """Replays blocks on one device without a clock."""

    def __init__(self, spec: DeviceSpec, resets: bool, sequential: bool) -> None:
        self.device, self.resets, self.sequential = Device(spec), resets, sequential
        self.link_busy_ns = self.cpu_busy_ns = self.storage_busy_ns = 0

    def replay(self, block: StepBlock, data: BlockData) -> BlockResult:
        """Replay the next steps."""
        result, device, requests = BlockResult.empty(block), self.device, block.num_requests()
        for step in range(len(block)):
            rows = data.rows(int(block.bounds[step]), int(block.bounds[step + 1]))
            if self.resets:
                device.enter_group(int(block.group[step]), block.pool_bytes_of(step))
            before = device.totals()
            pool_bytes = block.pool_bytes_of(step)
            device.load(rows, int(block.phase[step]), int(block.group[step]), int(requests[step]), pool_bytes)
            untimed_step(*device.structs, self.sequential, *device.step)
            result.counts[step], result.lost[step] = device.totals_since(before)
        return result

    def take_log(self) -> NDArray[np.int64]:
        """Nothing: there are no times."""
        return np.empty((0, 5), np.int64)

    def stop_log(self) -> None:
        """Nothing is kept anyway."""
