"""Which physical slot holds which expert; the device decides residency."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from policies.state import ABSENT
from sim.engine.decision.device import Device
from traces.errors import UserError


@njit(cache=True)
def find_place(key: int, first: int, last: int, holder: Any, status: Any) -> int:
    """The slot of ``holder[first:last]`` that holds ``key``, else one whose expert has gone; -1 if there is none."""
    free = -1
    for slot in range(first, last):
        held = holder[slot]
        if held == key:
            return slot
        if free < 0 and (held < 0 or status[held] == ABSENT):
            free = slot
    return free


class Slots:
    """Slots of every pool one after the other, staging slots last; ``holder`` [slots] keys layer * E + expert or -1.

    Raises: UserError where the experts of a pool differ in size, or a pool has room for less than whole experts.
    """

    def __init__(self, device: Device) -> None:
        pools, self.device = device.spec.pools, device
        if (pools.size != pools.size[0]).any():
            raise UserError("a real run needs experts of one size in all layers")
        self.counts = np.minimum(pools.capacity // int(pools.size[0]), self._most(device))
        self.first = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        self.staging = int(self.first[-1])
        self.total = self.staging + device.spec.staging_slots
        self.num_experts = device.spec.num_experts
        self.status = device.cache_arrays["status"]
        self.holder = np.full(self.total, -1, np.int64)
        self.slot_of = np.full(device.spec.num_layers * self.num_experts, -1, np.int64)
        self.whole = np.zeros(self.total, np.bool_)
        """Whether a slot holds all of its expert's bytes."""
        self.staged: dict[int, int] = {}
        """Expert of the current layer -> its staging slot."""

    @staticmethod
    def _most(device: Device) -> Any:
        """[P] experts that can belong to a pool."""
        pools = device.spec.pools
        return np.bincount(pools.pool_of, minlength=pools.capacity.size) * device.spec.num_experts

    def place(self, key: int, staged: bool) -> int:
        """The slot that a copy which starts now goes to."""
        layer, expert = divmod(key, self.num_experts)
        if staged:
            slot = next(s for s in range(self.staging, self.total) if s not in self.staged.values())
            self.staged[expert] = slot
            return slot
        pool = int(self.device.spec.pools.pool_of[layer])
        slot = int(find_place(key, self.first[pool], self.first[pool + 1], self.holder, self.status))
        if slot < 0:
            raise RuntimeError("a copy started although every slot holds an expert")
        self.holder[slot] = key
        self.slot_of[key] = slot
        self.whole[slot] = False
        return slot

    def where(self, layer: int, expert: int) -> int:
        """The slot to read an expert of the current layer from."""
        if expert in self.staged:
            return self.staged[expert]
        key = layer * self.num_experts + expert
        slot = int(self.slot_of[key])
        if slot < 0 or self.holder[slot] != key:
            raise RuntimeError(f"expert {expert} of layer {layer} is executed but holds no slot")
        return slot

    def release_staged(self, expert: int) -> None:
        """The staging slot of an executed expert is free again."""
        self.staged.pop(expert, None)

    def complete(self, slot: int) -> None:
        """All bytes of the slot's expert are there."""
        self.whole[slot] = True

    def settle(self) -> list[tuple[int, int]]:
        """Give every resident its slot, after decisions that copied nothing -> (key, slot) pairs to be filled."""
        self.staged.clear()
        missing = []
        for key in np.flatnonzero(self.status != ABSENT).tolist():
            slot = int(self.slot_of[key])
            if slot < 0 or self.holder[slot] != key or not self.whole[slot]:
                missing.append((key, self.place(key, False)))
        return missing
