"""What the SimPy engine tells a timeline: slices of GPU, link and CPU, kept beside the model that produces them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.state import DROPPED
from sim.engine.clocks.timeline_log import (
    LOG_BACK,
    LOG_COPY,
    LOG_CPU,
    LOG_DRAFT,
    LOG_EXPERT,
    LOG_HELD,
    LOG_LAYER,
    LOG_OUTCOME,
    LOG_PART,
    LOG_PREFETCH,
    LOG_QUEUE,
    LOG_READ,
    LOG_STAND_IN,
    STAGED_COPY,
)
from sim.engine.decision.core import DEMAND_COPY
from sim.engine.decision.device import Copy, Device


class Recorder:
    """Keeps slices as ``timeline_log`` describes them, in the order of what happens; nothing if not ``on``."""

    def __init__(self, device: Device, on: bool) -> None:
        self.device, self.on = device, on
        self.num_experts = device.spec.num_experts
        self.rows: list[tuple[int, int, int, int, int]] = []

    def take(self) -> NDArray[np.int64]:
        """[n, 5] the slices since the last call."""
        rows, self.rows = self.rows, []
        return np.array(rows, np.int64).reshape(-1, 5)

    def lookup(self, layer: int, tokens: int, begin_ns: int, now_ns: int) -> None:
        """A layer until its lookup, and what the lookup found: outcomes, queues, what occupies slots."""
        if not self.on:
            return
        cache, arrays, first = self.device.cache, self.device.cache_arrays, layer * self.num_experts
        self.rows.append((LOG_LAYER, layer, begin_ns, now_ns, tokens))
        demand = self.device.arrays["demand"][: self.device.state.get("num_demand")].tolist()
        for expert, outcome in zip(demand, arrays["outcome"].tolist(), strict=False):
            self.rows.append((LOG_OUTCOME, first + expert, now_ns, now_ns, outcome))
        self.rows += [(LOG_STAND_IN, first + routed, now_ns, now_ns, stands) for routed, stands in self._stand_ins()]
        demanded, prefetches = (
            cache.get(f"{name}_tail") - cache.get(f"{name}_head") for name in ("demand", "prefetch")
        )
        self.rows.append((LOG_QUEUE, demanded, now_ns, now_ns, prefetches))
        self.rows.append((LOG_HELD, int(arrays["member_count"].sum()), now_ns, now_ns, int(arrays["used"].sum())))

    def _stand_ins(self) -> dict[tuple[int, int], None]:
        """(routed, executed) experts of this layer that differ, each pair once, by token and rank."""
        arrays, count = self.device.arrays, self.device.state.get("num_tokens")
        if not self.device.cache.get("has_substitute"):
            return {}
        routed, executed = arrays["ids"][:count], arrays["executed_ids"][:count]
        differs = (routed != executed) & (executed != DROPPED)
        differs &= np.arange(routed.shape[1]) < arrays["token_ranks"][:count, None]
        return dict.fromkeys(zip(routed[differs].tolist(), executed[differs].tolist(), strict=True))

    def part(self, part: int, layer: int, begin_ns: int, end_ns: int, expert: int = 0) -> None:
        """What the GPU's time goes to beside experts and what comes ahead of a lookup."""
        if self.on and end_ns > begin_ns:
            self.rows.append((LOG_PART, layer * self.num_experts + expert, begin_ns, end_ns, part))

    def draft(self, part: int, passes: int, begin_ns: int, end_ns: int) -> None:
        """What drafting ahead of a step takes of a part."""
        if self.on and end_ns > begin_ns:
            self.rows.append((LOG_DRAFT, passes, begin_ns, end_ns, part))

    def expert(self, layer: int, expert: int, begin_ns: int, end_ns: int) -> None:
        """An expert on the GPU."""
        if self.on:
            served = int(self.device.tokens_of[expert])
            self.rows.append((LOG_EXPERT, layer * self.num_experts + expert, begin_ns, end_ns, served))

    def cpu_expert(self, layer: int, expert: int, begin_ns: int, end_ns: int) -> None:
        """An expert on the CPU."""
        if self.on:
            self.rows.append((LOG_CPU, layer * self.num_experts + expert, begin_ns, end_ns, 0))

    def read(self, layer: int, expert: int, begin_ns: int, end_ns: int, prefetches: bool) -> None:
        """An expert that storage reads."""
        if self.on:
            self.rows.append((LOG_READ, layer * self.num_experts + expert, begin_ns, end_ns, int(prefetches)))

    def stop_copy(self, key: int, at_ns: int) -> None:
        """The prefetch of an expert, which has been kept, stops early."""
        if self.on:
            row = max(i for i, kept in enumerate(self.rows) if kept[0] == LOG_PREFETCH and kept[1] == key)
            self.rows[row] = (*self.rows[row][:3], max(at_ns, self.rows[row][2]), self.rows[row][4])

    def copy(self, copy: Copy, what: int, at_ns: int, begin_ns: int, end_ns: int) -> None:
        """A copy that starts, behind or beside the write-back of its victims, which starts at ``at_ns``."""
        if not self.on:
            return
        key = copy.layer * self.num_experts + copy.expert
        if copy.back_ns:
            self.rows.append((LOG_BACK, key, at_ns, at_ns + copy.back_ns, 0))
        log_kind = LOG_COPY if what == DEMAND_COPY else LOG_PREFETCH
        self.rows.append((log_kind, key, begin_ns, end_ns, copy.kind + STAGED_COPY * copy.staged))
