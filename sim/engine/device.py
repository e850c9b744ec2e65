"""One device: residency, queues and rules behind the push interface that every driver uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Policy
from policies.state import RESIDENT, array_fields
from sim.capacity import Pools
from sim.engine import core
from sim.engine.compile import compile_rules
from sim.engine.layout import (
    MACHINE_ARRAYS,
    STATE_ARRAYS,
    machine_arrays,
    new_machine,
    new_state,
)
from sim.rows import StepData


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What a device is built from."""

    policy: Policy
    pools: Pools
    num_layers: int
    num_experts: int
    top_k: int
    max_tokens: int
    has_scores: bool
    staging_slots: int
    hold: bool
    warm: bool
    seed: int
    load_ns: NDArray[np.int64]  # [L]
    cpu_ns: NDArray[np.int64]  # [L, B+1], or no rows
    memories: dict[str, NDArray[np.float64]]  # by part, at the start
    first_use: NDArray[np.int64] | None  # [L, E]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy decided for one layer step; queues are views that the next ``begin`` overwrites."""

    ready: int
    gpu_queue: NDArray[np.int32]
    cpu_queue: NDArray[np.int32]
    demand_copies: int
    giving_up: int
    """How many experts give their slot up once executed (demand above capacity)."""


class Device:
    """Push interface of one device: ``begin`` -> Plan, ``next_copy``, ``copy_done``, ``executed``, ``end``.

    A trace, a live forward pass and a real runtime can all drive it; it holds no clock. Results accumulate in
    ``counts`` (see ``sim.engine.counters.COUNTERS``) and ``lost``.
    """

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        layers, experts = spec.num_layers, spec.num_experts
        self.arrays = array_fields(
            layers, experts, spec.top_k, spec.max_tokens, max(1, spec.policy.prediction.depth(layers))
        )
        self.arrays["load_ns"][:] = spec.load_ns
        if spec.first_use is not None:
            self.arrays["next_use"][:] = spec.first_use
        self.machine_arrays = machine_arrays(layers, experts) | {
            "pool_of": spec.pools.pool_of,
            "capacity": spec.pools.capacity,
            "used": np.zeros_like(spec.pools.capacity),
            "size": spec.pools.size,
            "load_ns": spec.load_ns,
            "cpu_ns": spec.cpu_ns,
        }
        ints = np.array([layers, experts, spec.top_k, spec.seed, int(spec.has_scores)], dtype=np.int64)
        self.state = new_state(ints, tuple(self.arrays[name] for name in STATE_ARRAYS))
        self.machine = new_machine(
            int(spec.hold),
            int(spec.policy.prediction.available_at_end()),
            spec.staging_slots,
            tuple(self.machine_arrays[name] for name in MACHINE_ARRAYS),
        )
        self.memories = {name: memory.copy() for name, memory in spec.memories.items()}
        self.rules = compile_rules(spec.policy, self.memories)
        if spec.warm or spec.policy.residency == "all":
            core.fill(self.state, self.machine, self.rules)
        self.counts: NDArray[np.int64] = self.machine_arrays["counts"]
        self.lost: NDArray[np.float64] = self.machine_arrays["lost"]
        self._plan: NDArray[np.int64] = self.machine_arrays["plan"]

    def begin(self, layer: int, phase: int, data: StepData) -> Plan:
        """Decide one layer step from the router output of all its tokens."""
        core.begin(self.state, self.machine, self.rules, layer, phase, *data.arguments())
        ready, gpu, cpu, copies, giving_up = self._plan.tolist()
        queues = self.machine_arrays
        return Plan(ready, queues["gpu_queue"][:gpu], queues["cpu_queue"][:cpu], copies, giving_up)

    def next_copy(self) -> tuple[int, int, int]:
        """Start the next copy -> (core.IDLE, WAIT, DEMAND_COPY or PREFETCH_COPY; its layer; its expert)."""
        target, code = divmod(int(core.next_copy(self.state, self.machine, self.rules)), 4)
        return (code, *divmod(target, self.spec.num_experts))

    def copy_done(self) -> None:
        """The copy on the link has arrived."""
        core.copy_done(self.state, self.machine)

    def executed(self, expert: int) -> None:
        """The GPU has executed an expert of the current layer."""
        core.executed(self.state, self.machine, expert)

    def end(self) -> None:
        """Close the layer step."""
        core.end(self.state, self.machine, self.rules)

    @property
    def tokens_of(self) -> NDArray[np.int32]:
        """[E] tokens served by each expert in the current layer step."""
        array: NDArray[np.int32] = self.machine_arrays["tokens_of"]
        return array

    def residents(self) -> NDArray[Any]:
        """[L, E] bool: resident now."""
        resident: NDArray[Any] = self.arrays["status"] == RESIDENT
        return resident
