"""What the device's memory leaves for experts beside everything else that has to lie there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.config import SpeculateConfig
from sim.machine.drafts import kv_bytes_per_token, resident_bytes
from sim.machine.hardware import Hardware
from sim.machine.model import Dimensions, embedding_bytes
from traces.errors import UserError
from traces.format.trace import Geometry

Bytes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of one device's memory, of what always lies there by name, and of K and V of one token in all layers, a
    draft's too."""

    name: str
    total: int
    parts: Mapping[str, int]
    kv_bytes_per_token: int

    def room(self, kv_tokens: Bytes) -> Bytes:
        """Bytes that are left for experts while K and V of so many tokens are held; below 0 where nothing is."""
        return np.asarray(self.total - sum(self.parts.values()) - kv_tokens * self.kv_bytes_per_token, np.int64)

    def require(self, needed: int, what: str, kv_tokens: int) -> None:
        """Raises: UserError that names every part where less than ``needed`` bytes for ``what`` are left."""
        left = int(self.room(np.array([kv_tokens]))[0])
        if left >= needed:
            return
        parts = dict(self.parts) | {f"K and V of {kv_tokens:,} tokens": kv_tokens * self.kv_bytes_per_token}
        taken = ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in parts.items() if size)
        raise UserError(
            f"cache.bytes=auto: this run cannot start on {self.name}: of its {self.total / 1e9:.4g} GB {taken} leave "
            f"{max(left, 0) / 1e9:.3g} GB, and {what} {'take' if what.endswith('s') else 'takes'} {needed / 1e9:.3g} GB"
        )


def device_memory(
    geometry: Geometry,
    dimensions: Dimensions | None,
    hardware: Hardware,
    staging_slots: int,
    layer_buffers: int,
    workspace_bytes: int,
    speculate: SpeculateConfig | None = None,
) -> DeviceMemory:
    """The memory of a device that runs a model of these sizes, and beside it a draft.

    ``dimensions``: of the model that the sizes are named after, for the input embedding, which `Geometry` leaves out;
    None: not known, and left out. ``layer_buffers``: whole layers of experts that prefill streams through.

    Raises: UserError where a size of the model is not known.
    """
    for size in ("expert_bytes", "attention_bytes", "shared_bytes", "other_bytes", "kv_bytes_per_token"):
        if getattr(geometry, size) is None:
            raise UserError(
                f"cache.bytes=auto needs {size} of {geometry.model}, which are not known: take the sizes of a known "
                "model with model=NAME, or give cache.bytes as a number"
            )
    experts, speculate = max(geometry.expert_bytes or (0,)), speculate or SpeculateConfig()
    parts = {
        "attention, norms and routers": sum(geometry.attention_bytes or ()),
        "shared experts": sum(geometry.shared_bytes or ()),
        "LM head and dense layers": geometry.other_bytes or 0,
        "input embedding": 0 if dimensions is None else embedding_bytes(dimensions),
        "draft": resident_bytes(speculate, geometry),
        "staging slots": staging_slots * experts,
        "buffers of streamed layers": layer_buffers * geometry.num_experts * experts,
        "workspace": workspace_bytes,
    }
    kv = (geometry.kv_bytes_per_token or 0) * geometry.num_layers + kv_bytes_per_token(speculate, geometry)
    return DeviceMemory(hardware.name, hardware.gpu_memory_bytes, parts, kv)
