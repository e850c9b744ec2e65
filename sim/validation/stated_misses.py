"""A trace with a stated number of misses per token, for runs that publish what they read and not what they routed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.trace import DECODE, Geometry, Trace, id_dtype


def trace_with_misses(misses: NDArray[np.int64], geometry: Geometry) -> Trace:
    """Decode tokens whose replay under LRU, warm, with half of each layer's experts cached, misses `misses` [T].

    The misses of a token spread evenly over the layers. As many experts as a token uses stay resident, the least
    recently used of them serve the hits; misses go through all other experts in turn, so that none returns in time.

    Raises: UserError where a token would need more misses than it uses experts, or fewer than 8 * top_k are there.
    """
    layers, experts, top_k = geometry.num_layers, geometry.num_experts, geometry.top_k
    if experts < 8 * top_k:
        raise UserError(f"stated misses need 8 * top_k = {8 * top_k} experts per layer; there are {experts}")
    if len(misses) == 0 or misses.min() < 0 or misses.max() > layers * top_k:
        raise UserError(f"stated misses must be from 0 to {layers * top_k} per token")
    edges = (np.arange(layers + 1)[None, :] * misses[:, None]) // layers
    per_layer = np.diff(edges, axis=1)  # [T, L]
    ids = np.empty((len(misses), layers, top_k), id_dtype(experts))
    # Warm, the first half is resident, its last experts are evicted last: they serve the hits. The second half misses
    # first; the ring of misses is longer than what fits.
    first_hot = experts // 2 - top_k
    ring = np.concatenate([np.arange(experts // 2, experts), np.arange(first_hot)])
    for layer in range(layers):
        hot, place = list(range(first_hot, experts // 2)), 0
        for token, count in enumerate(per_layer[:, layer].tolist()):
            hits, hot = hot[: top_k - count], hot[top_k - count :] + hot[: top_k - count]
            ids[token, layer] = hits + [int(ring[(place + i) % len(ring)]) for i in range(count)]
            place += count
    return Trace(
        geometry=geometry,
        topk_ids=ids,
        request_offsets=np.array([0, len(ids)], np.int64),
        prompt_len=np.array([0], np.int32),
        phase=np.full(len(ids), DECODE, np.uint8),
        ranked=False,
        provenance={"notes": ["SYNTHETIC: only the number of misses per token is that of a measured run."]},
    )
