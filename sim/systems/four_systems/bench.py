"""One row for every system: times, memory, bytes and arithmetic of the same requests on the same parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict

from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.assembly.replay import Replay
from sim.config import to_plain_dict, validate
from sim.metrics.step_table import StepTable
from sim.paths import CONF
from sim.statistics.bootstrap import request_interval
from sim.systems.expert_streaming import compare as expert_streaming_compare
from sim.systems.expert_streaming.config import Settings
from sim.systems.expert_streaming.like_run import like_run as expert_streaming_like_run
from sim.systems.od_moe.config import system_from_config
from sim.systems.od_moe.like_run import like_run as od_moe_like_run
from sim.systems.od_moe.requests import requests, serve
from sim.systems.od_moe.run import metrics as od_moe_metrics
from sim.systems.od_moe.times import tabulate
from traces.errors import UserError

ENERGY = {
    "link_j_per_byte": 2.4e-10,
    "network_j_per_byte": 8.0e-9,
    "package_j_per_byte": 8.0e-12,
    "memory_j_per_byte": 6.0e-11,
    "j_per_flop": 1.0e-12,
}
"""ESTIMATED: 20 pJ/bit of host DRAM and 10 of PCIe; 1 W per Gb/s of Ethernet at both ends; 1 pJ/bit between dies;
7.5 pJ/bit of GDDR6; 1 pJ per FLOP of 16 bits. Orders of magnitude, for weighing bytes against arithmetic."""


@dataclass(frozen=True, slots=True)
class Row:
    """One system. Times in s, bytes and FLOP per decode step; `lost`: share of the router's weight not executed as
    routed."""

    system: str
    tpot_s: float
    tpot_low_s: float
    tpot_high_s: float
    ttft_s: float | None
    memory_bytes: float
    parts: str
    link_bytes: float
    device_bytes: float
    memory_read_bytes: float
    flop: float
    lost: float
    device_kind: str = "package"

    @property
    def energy_j(self) -> float:
        """The proxy."""
        return (
            self.link_bytes * ENERGY["link_j_per_byte"]
            + self.device_bytes * ENERGY[f"{self.device_kind}_j_per_byte"]
            + self.memory_read_bytes * ENERGY["memory_j_per_byte"]
            + self.flop * ENERGY["j_per_flop"]
        )


class Bench:
    """The requests, the sizes and the machine of a run's configuration, which all systems share.

    Raises: UserError where the run's model states too few sizes.
    """

    def __init__(self, config: DictConfig, draws: int) -> None:
        self.config = config
        self.draws = draws
        if config.trace.fit_requests is None:  # so that rules that learn and rules that do not replay the same requests
            requests = self.replay("policy=all_resident").trace.num_requests
            self.config = config.copy()
            with open_dict(self.config):
                self.config.trace.fit_requests = max(1, requests // 4) if requests > 1 else 0
        self.resident = self.replay("policy=all_resident")
        trace, geometry = self.resident.trace, self.resident.geometry
        self.trace, self.geometry, self.hardware = trace, geometry, self.resident.hardware
        self.runtime = self.resident.runtime
        if geometry.expert_bytes is None or geometry.attention_bytes is None:
            raise UserError(f"system=four_systems: the sizes of {geometry.model} are not all known: choose model=NAME")
        self.expert_bytes = geometry.expert_bytes[0]
        self.dense_bytes = (
            sum(geometry.attention_bytes) + sum(geometry.shared_bytes or ()) + (geometry.other_bytes or 0)
        )
        self.per_byte = 8.0 / (geometry.weight_bits or 16.0)
        self.demanded = geometry.num_layers * geometry.top_k
        self.longest = int(np.diff(trace.request_offsets).max())

    def replay(self, *overrides: str) -> Replay:
        """A replay on the device under the policy that these overrides choose. Raises: UserError."""
        device = self.config.copy()
        with open_dict(device):
            device.policy, device.timeline, device.what_if = compose_run(*overrides).policy, False, False
        return build(device)

    @property
    def kv_bytes(self) -> int:
        return (self.geometry.kv_bytes_per_token or 0) * self.geometry.num_layers * self.longest

    def flop(self, experts: float) -> float:
        """Arithmetic of one token: two per weight."""
        return 2 * self.per_byte * (self.dense_bytes + experts * self.expert_bytes)

    def device(self, name: str, *overrides: str) -> Row:
        """One GPU with one host link under a policy."""
        replay = self.replay(*overrides)
        table = StepTable(replay)
        table.run()
        metrics, of_requests = table.metrics(), table.requests()
        low, high = mean_interval(np.asarray(of_requests["tpot_s"], float))
        held = replay.pools.total_bytes if replay.policy.residency != "none" else 0
        staging = self.runtime.staging_slots * self.expert_bytes
        return Row(
            name,
            number(metrics["tpot_s.mean"]),
            low,
            high,
            number(metrics["ttft_s.mean"]),
            held + staging + self.dense_bytes + self.kv_bytes,
            "1 GPU, 1 link" + (", CPU" if number(metrics["decode.cpu_rate"]) else ""),
            number(metrics["decode.bytes_per_token"]),
            0.0,
            self.dense_bytes + self.demanded * self.expert_bytes,
            self.flop(self.demanded),
            number(metrics["decode.lost_gate_mass"]),
        )

    def od_moe(self, groups: int, network: str, bytes_per_s: float) -> Row:
        """The cluster: every worker has this GPU and this link, the main and the shadow node this GPU."""
        config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "system" / "od_moe.yaml"))
        config, trace = od_moe_like_run(config, self.replay("policy=lru"))
        geometry = trace.geometry
        system = replace(
            system_from_config(config)[0],
            workers=groups * geometry.top_k,
            network_bytes_per_s=bytes_per_s,
            recall="measured",
        )
        times = tabulate(system, geometry)
        served = [serve(system, times, one, i) for i, one in enumerate(requests(system, times, self.trace))]
        metrics = od_moe_metrics(system, times, geometry, served)
        low, high = mean_interval(np.array([one.step_ns.mean() / 1e9 for one in served]))
        messages = 2 * self.demanded * 4 * (geometry.hidden_size or 0)
        shadow = 0.5 * (self.dense_bytes + self.demanded * self.expert_bytes)
        return Row(
            f"OD-MoE, {system.workers} workers, {network}",
            number(metrics["tpot_s.mean"]),
            low,
            high,
            number(metrics["ttft_s.mean"]),
            number(metrics["gpu_memory_bytes"]),
            f"{system.workers + 2} GPUs, {system.workers} links, network",
            number(metrics["bytes_per_token"]),
            messages + (geometry.kv_bytes_per_token or 0) * geometry.num_layers,
            self.dense_bytes + self.demanded * self.expert_bytes + shadow,
            2 * self.flop(self.demanded),
            0.0,
            "network",
        )

    @cached_property
    def dense_s(self) -> float:
        """TPOT of the device without its routed experts: what a package that only speeds experts up still takes."""
        table = StepTable(self.resident)
        table.run()
        durations, layers = self.resident.durations, self.geometry.num_layers
        experts_ns = layers * self.geometry.top_k * (int(durations.expert_ns[0, 1]) + durations.expert_launch_ns)
        return number(table.metrics()["tpot_s.mean"]) - experts_ns / 1e9

    def package(self, name: str, channels_bytes_per_s: float) -> Iterator[Row]:
        """A 2x2 package under expert parallelism and under streaming; one token per iteration."""
        config: Any = to_plain_dict(OmegaConf.load(CONF / "system" / "expert_streaming.yaml"), "system")
        dies = config["rows"] * config["columns"]
        config, _ = expert_streaming_like_run(config, self.resident)
        config |= {"draws": self.draws, "ddr_bytes_per_s": channels_bytes_per_s / dies}
        compared = expert_streaming_compare.compare(validate(Settings, config, "system."), self.trace)
        result, layers = expert_streaming_compare.metrics(compared), self.geometry.num_layers
        dense_s = self.dense_s
        for key, title, sides in (
            ("baseline", "expert parallel dies", compared.baseline),
            ("streaming", "Expert Streaming", compared.streaming),
        ):
            spans = np.array([side["makespan_ns"] / 1e9 for side in sides])
            low, high = mean_interval(spans)
            yield Row(
                f"{title}, {name}",
                dense_s + layers * float(spans.mean()),
                dense_s + layers * low,
                dense_s + layers * high,
                None,
                number(result[f"{key}.sram_peak_bytes"]) + self.dense_bytes + self.kv_bytes,
                f"{dies} dies and channels",
                layers * number(result[f"{key}.channel_bytes.mean"]),
                layers * number(result[f"{key}.link_bytes.mean"]),
                self.dense_bytes,
                self.flop(self.demanded),
                0.0,
            )


def mean_interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over requests or draws."""
    return request_interval(values, np.ones(len(values)))


def number(value: Any) -> float:
    return float("nan") if value is None else float(value)
