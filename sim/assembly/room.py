"""Capacity that follows the context: what K and V of every step leave of the device's memory for experts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from sim.config import SpeculateConfig
from sim.formatting import size
from sim.machine.capacity import CacheConfig
from sim.machine.geometry import dimensions_of
from sim.machine.machine import Machine
from sim.machine.memory import DeviceMemory, device_memory
from sim.workload.held import HeldTokens
from sim.workload.steps import Schedule, StepBlock
from traces.format.trace import Geometry


@dataclass(slots=True)
class Room:
    """Bytes for experts at every step of a replay. ``on`` enters them into its blocks, in their order."""

    memory: DeviceMemory
    held: HeldTokens
    pools: int
    """Pools of slots that share the bytes equally."""
    fixed: bool
    """What is resident never changes: it has what the longest context leaves, from the start."""
    start: int
    """Bytes at the first step."""
    mean: int
    """... of all steps."""
    least: int
    """... of the step with the most tokens held."""
    longest: int
    """Those tokens."""
    knows_embedding: bool

    def on(self, block: StepBlock) -> StepBlock:
        """The block with the bytes of every pool at each of its steps."""
        if self.fixed:
            return block
        return replace(block, pool_bytes=self.memory.room(self.held.of(block)) // self.pools)

    def words(self) -> list[str]:
        """What a reader has to know of it."""
        taken = ", ".join(f"{name} {size(float(amount))}" for name, amount in self.memory.parts.items() if amount)
        said = [
            f"cache.bytes=auto: of {size(float(self.memory.total))} {taken} lie beside K and V; experts have "
            f"{size(float(self.start))} at the first step and {size(float(self.least))} at the longest context of "
            f"{self.longest:,} tokens; capacities are means over steps"
        ]
        if not self.knows_embedding:
            said.append("cache.bytes=auto: no model file describes these sizes, so the input embedding is left out")
        return said


def find_room(
    schedule: Schedule,
    geometry: Geometry,
    machine: Machine,
    policy: Policy,
    cache: CacheConfig,
    keeps_kv: bool = True,
    streams: bool = False,
) -> Room:
    """The room of a replay.

    ``keeps_kv``: between the turns of a chat; ``streams``: prompts pass through two buffers of a layer each.

    Raises: UserError where the run could not start on this machine.
    """
    fixed = policy.residency != "cache" or policy.eviction.static
    memory = memory_of(machine, policy, cache, geometry, streams, schedule.speculate)
    tokens = _tokens(schedule, keeps_kv)
    rooms, longest = memory.room(tokens), int(tokens.max())
    pools = 1 if cache.scope == "global" else geometry.num_layers
    layers, largest = geometry.num_layers, max(geometry.expert_bytes or (0,))
    whole = sum(geometry.expert_bytes or ()) * geometry.num_experts
    needed, what = {
        "all": (whole, "all experts"),
        "none": (0, "no experts"),
        "cache": (pools * largest, "one expert of each layer" if pools == layers else "one expert"),
    }[policy.residency]
    memory.require(needed, what, longest)
    least = int(rooms.min())
    return Room(
        memory=memory,
        held=HeldTokens(schedule, keeps_kv),
        pools=pools,
        fixed=fixed,
        start=least if fixed else int(rooms[0]),
        mean=least if fixed else int(rooms.mean()),
        least=least,
        longest=longest,
        knows_embedding=dimensions_of(geometry) is not None,
    )


def memory_of(
    machine: Machine,
    policy: Policy,
    cache: CacheConfig,
    geometry: Geometry,
    streams: bool,
    speculate: SpeculateConfig | None = None,
) -> DeviceMemory:
    """The device's memory; a policy that keeps every expert needs no staging slots."""
    staging = 0 if policy.residency == "all" else min(machine.runtime.staging_slots, geometry.num_experts)
    dimensions, buffers = dimensions_of(geometry), 2 if streams else 0
    return device_memory(geometry, dimensions, machine.hardware, staging, buffers, cache.workspace_bytes, speculate)


def _tokens(schedule: Schedule, keeps_kv: bool) -> NDArray[np.int64]:
    """[S] tokens whose K and V are held at every step."""
    held = HeldTokens(schedule, keeps_kv)
    return np.concatenate([held.of(block) for block in schedule.blocks()])
