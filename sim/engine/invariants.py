"""What holds of a device after every replay, whatever the policy: checked once, when the last step is over."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.engine.decision.counters import (
    N_DEMAND_COPIES,
    N_DEMANDED,
    N_HOST_HITS,
    N_HOST_MISSES,
    N_PREFETCH_ABANDONED,
    N_PREFETCH_COPIES,
    N_PREFETCH_LATE,
    N_PREFETCH_USED,
    N_PREFETCH_WASTED,
    N_STORAGE_BYTES,
    NUM_OUTCOMES,
)
from sim.engine.decision.device import Device


def check_finished(device: Device) -> None:
    """Raises RuntimeError that names what does not hold."""
    for broken in broken_invariants(device):
        raise RuntimeError(
            f"policy {device.spec.policy.name}: after the replay {broken}; an engine is wrong, or a rule wrote arrays "
            "that policies.state.State does not let it write"
        )


def broken_invariants(device: Device) -> Iterator[str]:
    """Each invariant that does not hold, in words."""
    arrays, counts, spec = device.cache_arrays, device.counts, device.spec
    used, capacity = arrays["used"], arrays["capacity"]
    if not spec.hold and (used > capacity).any():
        yield f"experts occupy {used.tolist()} bytes of {capacity.tolist()}"
    if device.cache.get("over_bytes") > 0:
        yield f"experts once occupied {device.cache.get('over_bytes')} bytes more than K and V left them"
    held = np.zeros_like(used)
    for pool, count in enumerate(arrays["member_count"].tolist()):
        held[pool] = arrays["held"][arrays["members"][pool, :count]].sum()
    if (held != used).any():
        yield f"experts of {held.tolist()} bytes occupy {used.tolist()}"
    yield from _broken_tiers(device)
    promotes = bool(device.cache.get("promotes") or device.cache.get("admits"))
    for name in ("shield", "prefetched", "transient", "staged"):
        if arrays[name].any() and not (promotes and name == "prefetched"):
            yield f"{np.count_nonzero(arrays[name])} experts are left in Cache.{name}"
    if device.cache.get("staging_free") != spec.staging_slots:
        yield f"{device.cache.get('staging_free')} of {spec.staging_slots} staging slots are free"
    if counts[:NUM_OUTCOMES].sum() != counts[N_DEMANDED]:
        yield f"{counts[:NUM_OUTCOMES].sum()} outcomes were counted of {counts[N_DEMANDED]} demanded experts"
    ends = (N_PREFETCH_USED, N_PREFETCH_LATE, N_PREFETCH_WASTED, N_PREFETCH_ABANDONED)
    waiting = counts[N_PREFETCH_COPIES] - counts[list(ends)].sum()
    if waiting < 0 or (waiting > 0 and not promotes):
        yield f"{counts[list(ends)].sum()} prefetches were settled of {counts[N_PREFETCH_COPIES]} that started"


def _broken_tiers(device: Device) -> Iterator[str]:
    """What does not hold of host memory and storage: bytes are conserved between tiers."""
    arrays, counts, host = device.cache_arrays, device.counts, device.spec.host
    if host is None:
        return
    sizes = np.repeat(arrays["size"], device.spec.num_experts)
    lie, used, came, left = (
        int(sizes[arrays["in_host"] > 0].sum()),
        *map(device.cache.get, ("host_used", "host_in_bytes", "host_out_bytes")),
    )
    if not lie == used == came - left or used > host.capacity:
        yield f"{came} bytes came to host memory and {left} left, {lie} lie there, {used} of {host.capacity} are in use"
    read, misses = int(counts[N_STORAGE_BYTES]), int(counts[N_HOST_MISSES])
    if not misses * int(arrays["size"].min()) <= read <= misses * int(arrays["size"].max()):
        yield f"{read} bytes were read from storage for {misses} experts"
    served, moved = misses + int(counts[N_HOST_HITS]), int(counts[N_DEMAND_COPIES] + counts[N_PREFETCH_COPIES])
    if served < moved:
        yield f"{served} experts were served by host memory and storage, and {moved} copied"
