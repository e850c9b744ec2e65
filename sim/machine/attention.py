"""Attention time of a layer: the one formula of the time model that needs a step's context lengths."""

from __future__ import annotations


def attention_time(weights_ns: int, kv_tokens: int, kv_ps_per_token: int, pairs: int, pair_ps: int) -> int:
    """Attention time of a layer: its weights, then the longer of reading K and V and of the arithmetic over all pairs.

    ``kv_tokens``: tokens whose K and V are read, summed over the requests of the step. ``pairs``: (query, key) pairs,
    summed likewise: n new tokens on a context of c before them make n * c + n * (n + 1) / 2. In numba's subset: both
    engines call it.
    """
    return weights_ns + max(kv_tokens * kv_ps_per_token, pairs * pair_ps) // 1000
