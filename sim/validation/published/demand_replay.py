"""Replays of published routing on demand only, and the machine of two fitted constants that gives them a clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.assignment.link_only import LinkOnly
from policies.base import Eviction, Policy
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.state import DECODE
from policies.substitution.none import NoSubstitution
from sim.assembly.replay import DeviceSetup, assemble
from sim.config import RunConfig, TimeConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
from sim.machine.machine import Machine
from sim.machine.runtime import Runtime
from sim.metrics.step_table import StepTable
from traces.format.trace import Geometry, Trace

NO_COMPUTE = TimeConfig(attention=False, experts=False, shared_experts=False, head=False)
"""Everything but copies is in `host_s_per_layer`, ahead of the lookup: no copy overlaps with anything."""


@dataclass(frozen=True, slots=True)
class DemandSteps:
    """Per step of a replay, [S]: demand copies, hits, demanded experts, nanoseconds, and whether it decodes."""

    copies: NDArray[np.int64]
    hits: NDArray[np.int64]
    demanded: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    decode: NDArray[np.bool_]


def two_constant_machine(name: str, base_s: float, copy_s: float, geometry: Geometry, source: str) -> Machine:
    """A machine on which a step takes `base_s`, and `copy_s` more for every expert that is copied.

    That is a runtime whose copies wait for the computation before them and hold up the one behind them. Only the
    quotient of expert bytes and link rate is known, so the rate is stated for the bytes that `geometry` carries.
    """
    label = f"FITTED: {source}"
    assert geometry.expert_bytes is not None
    hardware = Hardware(
        name=name,
        gpu_memory_bytes=1,
        gpu_memory_bytes_per_s=1.0,  # of switched-off terms
        gpu_flops_per_s=1.0,
        link_latency_s=0.0,
        link_bytes_per_s=geometry.expert_bytes[0] / copy_s,
        label="FITTED",
        sources={"link_bytes_per_s": label},
    )
    layer_s = base_s / geometry.num_layers
    return Machine(hardware, Runtime(name, layer_s, label="FITTED", sources={"host_s_per_layer": label}))


def replay_demand(
    trace: Trace, rule: Eviction, cache: CacheConfig, machine: Machine, time: TimeConfig, seed: int = 0
) -> DemandSteps:
    """Replay a trace under an eviction rule that fetches misses on demand and does nothing else."""
    policy = Policy("published", rule, NoPrediction(), NoPrefetch(), NoSubstitution(), LinkOnly())
    setup = DeviceSetup(policy, machine, cache, RunConfig(seed=seed, engine="compiled"), time)
    table = StepTable(assemble(trace, setup)).run()
    columns = table.columns()
    steps = len(table)
    return DemandSteps(
        copies=columns["demand_copies"],
        hits=columns["hits"],
        demanded=columns["demanded"],
        latency_ns=columns.get("latency_ns", np.zeros(steps, np.int64)),
        decode=columns["phase"] == DECODE,
    )
