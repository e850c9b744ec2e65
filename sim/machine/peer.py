"""A second GPU as a store of experts between slots and host memory: how much it holds, over which links they come."""

from __future__ import annotations

from sim.machine.devices import DevicesConfig
from sim.machine.host_store import HostConfig, HostStore, room_for_experts
from sim.machine.machine import Machine
from sim.machine.storage import PeerLinks, Reading
from traces.errors import UserError

STORE = "devices.role=store"


def peer_store(
    devices: DevicesConfig,
    host: HostConfig,
    machine: Machine,
    workspace_bytes: int,
    expert_bytes: tuple[int, ...],
    num_experts: int,
    top_k: int,
) -> HostStore:
    """The second GPU's memory as the store behind the slots; what it lacks comes from host memory through it.

    ``host``: of its group ``eviction``, ``inclusion`` and ``start`` are those of the store. ``workspace_bytes``: of the
    second GPU's memory, where ``devices.peer_bytes`` does not say how much is for experts.

    Raises: UserError where host memory does not hold every expert, or a layer's choice does not fit the store.
    """
    assert devices.peer_bytes_per_s is not None
    whole, layer = sum(expert_bytes) * num_experts, top_k * max(expert_bytes)
    _check_host(host, machine, whole)
    room = devices.peer_bytes or machine.hardware.gpu_memory_bytes - workspace_bytes
    if room < layer:
        raise UserError(
            f"{STORE}: the second GPU has {max(room, 0) / 1e9:.3g} GB for experts, and the {top_k} that a token wants "
            f"of a layer take {layer / 1e9:.3g} GB: give more devices.peer_bytes"
        )
    links = PeerLinks(devices.peer_bytes_per_s, devices.second_link_bytes_per_s)
    return HostStore(
        min(room, whole),
        host.eviction == "lru",
        host.inclusion == "exclusive",
        host.start == "warm",
        Reading(None, 1, sequential=False, peer=links),
    )


def _check_host(host: HostConfig, machine: Machine, whole: int) -> None:
    """Raises: UserError where host memory is no plain store of every expert, ``whole`` bytes."""
    if machine.hardware.unified_memory:
        raise UserError(f"{STORE}: hardware {machine.hardware.name} has unified memory, and one GPU")
    if host.mode != "pinned":
        raise UserError(f"host.mode={host.mode}: with {STORE} no file is read; use pinned")
    room = room_for_experts(host, machine)
    if room is not None and room < whole:
        where = f"host.bytes={room}" if host.bytes is not None else f"host memory of {machine.hardware.name}"
        raise UserError(
            f"{STORE}: {where} has {max(room, 0) / 1e9:.3g} GB for experts, and all of them take {whole / 1e9:.3g} GB; "
            "storage behind it is not replayed with a second GPU as a store; use devices.role=split, devices.count=1 "
            "or a smaller model"
        )
