"""A trace with a stated number of misses per token, for runs that publish what they read and not what they routed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.errors import UserError
from traces.format.trace import DECODE, Geometry, Trace, id_dtype


def trace_with_misses(misses: NDArray[np.int64], geometry: Geometry) -> Trace:
    """Decode tokens whose replay under LRU, warm, with half of each layer's experts cached, misses `misses` [T].

    The misses of a token spread evenly over the layers; its hits are what was used last.

    Raises: UserError where a token would need more misses than it uses experts, or where fewer than 2 * top_k experts
    are there.
    """
    layers, experts, top_k = geometry.num_layers, geometry.num_experts, geometry.top_k
    if experts < 2 * top_k:
        raise UserError(f"stated misses need 2 * top_k = {2 * top_k} experts per layer; there are {experts}")
    if len(misses) == 0 or misses.min() < 0 or misses.max() > layers * top_k:
        raise UserError(f"stated misses must be from 0 to {layers * top_k} per token")
    edges = (np.arange(layers + 1)[None, :] * misses[:, None]) // layers
    per_layer = np.diff(edges, axis=1)  # [T, L]
    ids = np.empty((len(misses), layers, top_k), id_dtype(experts))
    for layer in range(layers):
        # Longest unused first. Warm, the first half is resident.
        resident, absent = list(range(experts // 2)), list(range(experts // 2, experts))
        for token, count in enumerate(per_layer[:, layer].tolist()):
            kept = len(resident) - (top_k - count)
            used = resident[kept:] + absent[:count]
            ids[token, layer] = used
            absent = absent[count:] + resident[:count]
            resident = resident[count:kept] + used
    return Trace(
        geometry=geometry,
        topk_ids=ids,
        request_offsets=np.array([0, len(ids)], np.int64),
        prompt_len=np.array([0], np.int32),
        phase=np.full(len(ids), DECODE, np.uint8),
        ranked=False,
        provenance={"notes": ["SYNTHETIC: only the number of misses per token is that of a measured run."]},
    )
