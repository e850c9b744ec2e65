"""A slow, plain-Python replay of demand-only rules, written from the definitions, sharing no code with engines."""

from __future__ import annotations

import numpy as np

from traces.format.ranks import signed_ids
from traces.format.trace import PREFILL, Trace

NEVER = 10**18
Key = tuple[int, int]


def passes(trace: Trace, batch_size: int) -> list[list[int]]:
    """Rows of each forward pass: prompts of a batch one by one, then its decode rows in lockstep."""
    found = []
    for start in range(0, trace.num_requests, batch_size):
        decode = []
        for request in range(start, min(start + batch_size, trace.num_requests)):
            rows = range(int(trace.request_offsets[request]), int(trace.request_offsets[request + 1]))
            prompt = [row for row in rows if trace.phase[row] == PREFILL]
            found += [prompt] if prompt else []
            decode.append([row for row in rows if trace.phase[row] != PREFILL])
        for i in range(max(map(len, decode))):
            found.append([rows[i] for rows in decode if i < len(rows)])
    return found


def reference_replay(trace: Trace, rule: str, slots: int, scope: str, batch_size: int) -> tuple[int, int, int, int]:
    """(hits, demanded, copies, copied bytes) under 'lru' or 'belady_admit' with overflow=stream."""
    ids, sizes = signed_ids(np.asarray(trace.topk_ids), trace.fewer), list(trace.geometry.expert_bytes or ())
    pool_of = [0] * len(sizes) if scope == "global" else list(range(len(sizes)))
    room = [slots * sum(sizes)] if scope == "global" else [slots * size for size in sizes]
    steps = [
        (layer, [int(expert) for row in rows for expert in ids[row, layer] if expert >= 0])
        for rows in passes(trace, batch_size)
        for layer in range(len(sizes))
    ]
    resident: dict[Key, tuple[int, int]] = {}
    hits = demanded = copies = copied = 0

    def next_demand(key: Key, now: int) -> int:
        later = (i for i in range(now + 1, len(steps)) if steps[i][0] == key[0] and key[1] in steps[i][1])
        return next(later, NEVER)

    def worth(key: Key, now: int) -> tuple[float, Key]:
        return (resident[key] if rule == "lru" else -next_demand(key, now)), key  # type: ignore[return-value]

    for now, (layer, accesses) in enumerate(steps):
        order = list(dict.fromkeys(reversed(accesses)))[::-1]  # by last touch
        kept = set(order[-(room[pool_of[layer]] // sizes[layer]) :])
        missing = [expert for expert in order if (layer, expert) not in resident]
        demanded, hits = demanded + len(order), hits + len(order) - len(missing)
        for place, expert in enumerate(order):
            if (layer, expert) in resident:
                resident[layer, expert] = (now, place)
        for expert in missing:
            copies, copied = copies + 1, copied + sizes[layer]
            if expert not in kept:
                continue
            while True:
                mates = [key for key in resident if pool_of[key[0]] == pool_of[layer]]
                if sum(sizes[key[0]] for key in mates) + sizes[layer] <= room[pool_of[layer]]:
                    resident[layer, expert] = (now, order.index(expert))
                    break
                others = [key for key in mates if key[0] != layer or key[1] not in order]
                giving_up = [(layer, e) for e in order if (layer, e) in mates and e not in kept]
                if not others + giving_up:
                    break
                del resident[min(others or giving_up, key=lambda key: worth(key, now))]
    return hits, demanded, copies, copied
