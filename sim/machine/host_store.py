"""What host memory holds of a model that storage holds whole: from the `host` knobs to bytes of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sim.machine.machine import Machine
from sim.machine.storage import READAHEAD_BYTES, Reading
from sim.ranges import Amount, Count, OneOf, check_ranges
from traces.errors import UserError


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The `host` group: experts in host memory, where it cannot hold all of them."""

    bytes: int | None = None
    """For experts; None: ``host_memory_bytes`` of the machine without ``reserve_bytes``."""
    reserve_bytes: Amount = 4_000_000_000
    """What else lies in host memory: operating system, runtime, buffers."""
    eviction: Annotated[str, OneOf("lru", "fifo")] = "lru"
    """``lru``: what was served longest ago leaves; ``fifo``: what came first. Hits on the GPU are not seen here."""
    inclusion: Annotated[str, OneOf("inclusive", "exclusive")] = "inclusive"
    """``inclusive``: what goes on to the GPU stays here, and leaves here without leaving there; ``exclusive``: it
    leaves, and comes back when its slot's victim is written back."""
    mode: Annotated[str, OneOf("pinned", "page_cache")] = "pinned"
    """``pinned``: the runtime's own store, read by ``runtime.read_bytes`` and ``read_depth``; ``page_cache``: the
    kernel's, LRU with readahead of ``readahead_bytes``, one request at a time (ESTIMATED)."""
    readahead_bytes: Count = READAHEAD_BYTES
    """Of ``page_cache``."""
    start: Annotated[str, OneOf("cold", "warm")] = "warm"
    """``cold``: empty; ``warm``: filled, the first experts of every layer first."""

    def __post_init__(self) -> None:
        check_ranges(self, "host.")
        if self.bytes is not None and self.bytes < 1:
            raise UserError(f"host.bytes={self.bytes}: must be at least 1, or null")
        if self.mode == "page_cache" and (self.eviction, self.inclusion) != ("lru", "inclusive"):
            raise UserError(
                f"host.mode=page_cache: the kernel keeps what was used last and a copy of what goes on, so "
                f"host.eviction={self.eviction} and host.inclusion={self.inclusion} must be lru and inclusive"
            )


@dataclass(frozen=True, slots=True)
class HostStore:
    """A store of experts between slots and storage."""

    capacity: int
    """Bytes; 0: none, what the slots lack comes from storage."""
    lru: bool
    exclusive: bool
    warm: bool
    reading: Reading


def host_store(
    config: HostConfig, machine: Machine, expert_bytes: tuple[int, ...], num_experts: int, top_k: int
) -> HostStore | None:
    """The store of a machine, None where host memory holds every expert or nothing is known of its size.

    With unified memory the slots are host memory: nothing lies between them and storage.

    Raises: UserError where experts fit nowhere, or a layer's choice does not fit host memory.
    """
    hardware, runtime = machine.hardware, machine.runtime
    whole = sum(expert_bytes) * num_experts
    reading = Reading(runtime.read_bytes, runtime.read_depth or 1, sequential=False)
    if config.mode == "page_cache":
        reading = Reading(config.readahead_bytes, 1, sequential=True)
    if hardware.unified_memory:
        _require_storage(machine, "unified memory keeps experts in its slots alone")
        return HostStore(0, True, False, False, reading)
    room = room_for_experts(config, machine)
    if room is None or room >= whole:
        return None
    where = f"host.bytes={room}" if config.bytes is not None else f"host memory of {hardware.name}"
    has = f"{where} has {max(room, 0) / 1e9:.3g} GB for experts"
    _require_storage(machine, f"{has}, and all of them take {whole / 1e9:.3g} GB")
    if room < top_k * max(expert_bytes):
        raise UserError(
            f"{has}, and the {top_k} that a token wants of a layer take {top_k * max(expert_bytes) / 1e9:.3g} GB"
        )
    return HostStore(room, config.eviction == "lru", config.inclusion == "exclusive", config.start == "warm", reading)


def room_for_experts(config: HostConfig, machine: Machine) -> int | None:
    """Bytes of host memory for experts, of a machine whose memory is not unified; None: nothing is known of them."""
    if config.bytes is not None:
        return config.bytes
    has = machine.hardware.host_memory_bytes
    return None if has is None else has - config.reserve_bytes


def _require_storage(machine: Machine, why: str) -> None:
    if not machine.hardware.storage_rates:
        raise UserError(
            f"{why}: the rest needs storage, and hardware {machine.hardware.name} states no storage_rates; take a "
            "smaller model, or a machine with storage, for example hardware=desktop_nvme"
        )
