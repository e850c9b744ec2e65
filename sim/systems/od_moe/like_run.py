"""OD-MoE with the parts of a run: its requests, sizes, GPU, link, launches and host time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim.assembly.replay import Replay
from sim.machine.durations import launch_s
from traces.errors import UserError
from traces.format.trace import Trace

TAKEN = "requests, sizes, GPU, link, launches and host time"
LEFT = "policy, cache, CPU and batch_size: workers keep nothing, and requests come one after the other"


def like_run(config: dict[str, Any], replay: Replay) -> tuple[dict[str, Any], Trace]:
    """(the ``system`` group, the requests) where every worker has the run's GPU and link, main and shadow node its GPU.

    ``replay``: of the run's requests under a policy that loads experts, so that all of its host time is counted. The
    network and what the prediction finds stay as configured.

    Raises: UserError where the run's model states too few sizes.
    """
    hardware, machine, geometry = replay.hardware, replay.setup.machine, replay.geometry
    if geometry.attention_bytes is None or geometry.hidden_size is None or geometry.weight_bits is None:
        raise UserError(f"system.like_run=true: the sizes of {geometry.model} are not all known: choose model=NAME")
    memory_bytes_per_s = hardware.gpu_memory_bytes_per_s * replay.runtime.gpu_memory_share
    layer_ns = int(replay.durations.before_lookup_ns.sum() + replay.durations.after_experts_ns.sum())
    figures = {
        "weight_bits": geometry.weight_bits,
        "gpu_memory_bytes_per_s": memory_bytes_per_s,
        "gpu_flops_per_s": hardware.gpu_flops_per_s,
        "worker_memory_bytes_per_s": memory_bytes_per_s,
        "link_latency_s": hardware.link_latency_s,
        "link_bytes_per_s": hardware.link_bytes_per_s,
        "launch_s": launch_s(machine)[0],
        "host_s_per_layer": layer_ns / 1e9,
        "shadow_host_s_per_layer": layer_ns / 1e9,
    }
    whose = f"{hardware.label}: hardware {hardware.name}, runtime {replay.runtime.name}, model {geometry.model}"
    sources = dict(config.get("sources") or {}) | dict.fromkeys(figures, whose)
    dense = geometry.attention_bytes
    if geometry.shared_bytes is not None:
        dense = tuple(a + b for a, b in zip(dense, geometry.shared_bytes, strict=True))
    trace = replace(replay.trace, geometry=replace(geometry, attention_bytes=dense))
    return config | figures | {"model": "trace", "workload": "trace", "sources": sources}, trace
