"""SMoE, MoE-Beyond, OD-MoE and Expert Streaming side by side: one trace, the same sizes, the same parts.

  python -m sim train-predictor out=beyond.safetensors trace.fit_requests=6
  python -m scripts.studies.systems.four_systems --checkpoint beyond.safetensors [--out FOLDER]

All serve the same requests of the embedded trace, one at a time, with the sizes of DeepSeek-MoE-16B (6 MoE layers of
it). Like for like: a GPU, a host link, launches and host time are those of --hardware wherever a system has such a
part; OD-MoE has one of each per worker, Expert Streaming has the same arithmetic rate and the link's bandwidth spread
over its memory channels (a second row has four times as much: its paper's 25.6 GB/s per channel). Its attention and
host are those of the device.
Neither the time of MoE-Beyond's own network nor what SMoE's CPU experts read is counted. A system that needs more
parts shows it under memory and parts: no row is better in all.
Everything is SIMULATED; the energy is a proxy, ESTIMATED: bytes and FLOP of a decode step times the figures of ENERGY.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from sim.assembly.build import build
from sim.assembly.compose import compose_run
from sim.assembly.replay import Replay
from sim.config import to_plain_dict, validate
from sim.metrics.step_table import StepTable
from sim.paths import CONF
from sim.results.table import request_interval
from sim.systems.expert_streaming import compare as expert_streaming_compare
from sim.systems.expert_streaming.config import Settings
from sim.systems.od_moe.config import system_from_config
from sim.systems.od_moe.requests import requests, serve
from sim.systems.od_moe.run import metrics as od_moe_metrics
from sim.systems.od_moe.times import tabulate
from traces.errors import UserError
from traces.whole_file import write_whole

FIT_REQUESTS = 6
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
    """One system. Times in s, bytes and FLOP per decode step; `quality`: perplexity over that of the model, None where
    it was not measured; `lost`: share of the router's weight not executed as routed."""

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
    """The trace, the sizes and the machine that all share."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.resident = self.replay("policy=all_resident")
        trace, geometry = self.resident.trace, self.resident.geometry
        self.trace, self.geometry, self.hardware = trace, geometry, self.resident.hardware
        assert geometry.expert_bytes is not None and geometry.attention_bytes is not None
        self.expert_bytes = geometry.expert_bytes[0]
        self.dense_bytes = (
            sum(geometry.attention_bytes) + sum(geometry.shared_bytes or ()) + (geometry.other_bytes or 0)
        )
        self.per_byte = 8.0 / (geometry.weight_bits or 16.0)
        self.demanded = geometry.num_layers * geometry.top_k
        self.longest = int(np.diff(trace.request_offsets).max())

    def replay(self, *overrides: str) -> Replay:
        """A replay on the device."""
        chosen = [f"trace.fit_requests={FIT_REQUESTS}", f"hardware={self.given.hardware}", "engine=compiled"]
        return build(compose_run(*chosen, f"cache.fraction={self.given.capacity}", *overrides))

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
        found, requests_of = table.metrics(), table.requests()
        low, high = mean_interval(np.asarray(requests_of["tpot_s"], float))
        held = replay.pools.total_bytes if replay.policy.residency != "none" else 0
        staging = self.hardware.staging_slots * self.expert_bytes
        return Row(
            name,
            number(found["tpot_s.mean"]),
            low,
            high,
            number(found["ttft_s.mean"]),
            held + staging + self.dense_bytes + self.kv_bytes,
            "1 GPU, 1 link" + (", CPU" if number(found["decode.cpu_rate"]) else ""),
            number(found["decode.bytes_per_token"]),
            0.0,
            self.dense_bytes + self.demanded * self.expert_bytes,
            self.flop(self.demanded),
            number(found["decode.lost_gate_mass"]),
        )

    def od_moe(self, groups: int, network: str, bytes_per_s: float) -> Row:
        """The cluster: every worker has this GPU and this link, the main and the shadow node this GPU."""
        config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "system" / "od_moe.yaml"))
        machine, geometry = self.hardware, self.geometry
        system = replace(
            system_from_config(config)[0],
            workers=groups * geometry.top_k,
            weight_bits=geometry.weight_bits or 16.0,
            gpu_memory_bytes_per_s=machine.gpu_memory_bytes_per_s,
            gpu_flops_per_s=machine.gpu_flops_per_s,
            worker_memory_bytes_per_s=machine.gpu_memory_bytes_per_s,
            link_latency_s=machine.link_latency_s,
            link_bytes_per_s=machine.link_bytes_per_s,
            network_bytes_per_s=bytes_per_s,
            launch_s=machine.launch_s * machine.kernels_per_expert,
            host_s_per_layer=self.other_s_per_layer,
            shadow_host_s_per_layer=self.other_s_per_layer,
            recall="measured",
            workload="trace",
        )
        assert geometry.attention_bytes is not None
        shared = geometry.shared_bytes or (0,) * geometry.num_layers
        dense = tuple(a + b for a, b in zip(geometry.attention_bytes, shared, strict=True))
        times = tabulate(system, replace(geometry, attention_bytes=dense))
        served = [serve(system, times, one, i) for i, one in enumerate(requests(system, times, self.trace))]
        found = od_moe_metrics(system, times, replace(geometry, attention_bytes=dense), served)
        low, high = mean_interval(np.array([one.step_ns.mean() / 1e9 for one in served]))
        messages = 2 * self.demanded * 4 * (geometry.hidden_size or 0)
        shadow = 0.5 * (self.dense_bytes + self.demanded * self.expert_bytes)
        return Row(
            f"OD-MoE, {system.workers} workers, {network}",
            number(found["tpot_s.mean"]),
            low,
            high,
            number(found["ttft_s.mean"]),
            number(found["gpu_memory_bytes"]),
            f"{system.workers + 2} GPUs, {system.workers} links, network",
            number(found["bytes_per_token"]),
            messages + (geometry.kv_bytes_per_token or 0) * geometry.num_layers,
            self.dense_bytes + self.demanded * self.expert_bytes + shadow,
            2 * self.flop(self.demanded),
            0.0,
            "network",
        )

    @property
    def other_s_per_layer(self) -> float:
        """Launches outside experts, read-back, synchronisation and host time of a layer on the device."""
        durations = self.resident.durations
        launch_ns = durations.layer_launch_ns + durations.readback_ns + durations.sync_ns + durations.host_ns
        return launch_ns / 1e9

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
        rate = self.hardware.gpu_flops_per_s / 2 / dies / config["clock_hz"]
        config |= {
            "model": "deepseek_moe_16b",
            "tokens": 1,
            "draws": self.given.draws,
            "routing": "trace",
            "macs_per_cycle": rate,
            "ddr_bytes_per_s": channels_bytes_per_s / dies,
            "weight_bytes": 1 / self.per_byte,
            "activation_bytes": 2.0,
        }
        found = expert_streaming_compare.compare(validate(Settings, config, "system."), self.trace)
        result, layers = expert_streaming_compare.metrics(found), self.geometry.num_layers
        dense_s = self.dense_s
        for scheme, sides in (("expert parallel", found.baseline), ("streaming", found.streaming)):
            spans = np.array([side.makespan_ns / 1e9 for side in sides])
            low, high = mean_interval(spans)
            key = "baseline" if scheme == "expert parallel" else "streaming"
            yield Row(
                f"Expert Streaming, {name}" if key == "streaming" else f"same dies, expert parallel, {name}",
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


def rows(bench: Bench, checkpoint: Path | None) -> Iterator[Row]:
    """All systems, the bounds of the device first."""
    yield bench.device("all resident", "policy=all_resident")
    yield bench.device("LRU", "policy=lru")
    yield bench.device("SMoE", "policy=importance")
    yield bench.device("SMoE, link only", "policy=importance", "policy/assignment=link_only")
    if checkpoint is not None:
        top = f"policy.prefetch.n={bench.geometry.top_k}"
        yield bench.device("MoE-Beyond", "policy=moe_beyond", f"policy.prediction.checkpoint='{checkpoint}'", top)
    for groups in (2, 4):
        yield bench.od_moe(groups, "1 Gb/s", 117.6e6)
    yield bench.od_moe(4, "10 Gb/s", 1.176e9)
    yield from bench.package(f"{bench.hardware.link_bytes_per_s / 1e9:.3g} GB/s", bench.hardware.link_bytes_per_s)
    yield from bench.package("102 GB/s", 4 * 25.6e9)


def table(found: list[Row], quality: dict[str, float]) -> str:
    """Markdown."""
    head = (
        "| system | parts | TPOT ms (95 %) | TTFT ms | GPU or on-chip memory GB | link or DDR MB/token | "
        "between devices MB/token | GFLOP/token | energy proxy mJ/token | gate mass lost | perplexity |"
    )
    lines = [head, "|" + "---|" * 11]
    for row in found:
        ttft = "-" if row.ttft_s is None else f"{1e3 * row.ttft_s:.0f}"
        effect = quality.get(row.system)
        shown = "not measured" if effect is None else f"{effect:.4f}"
        lines.append(
            f"| {row.system} | {row.parts} | {1e3 * row.tpot_s:.1f} ({1e3 * row.tpot_low_s:.1f} to "
            f"{1e3 * row.tpot_high_s:.1f}) | {ttft} | {row.memory_bytes / 1e9:.2f} | {row.link_bytes / 1e6:.0f} | "
            f"{row.device_bytes / 1e6:.2f} | {row.flop / 1e9:.2f} | {1e3 * row.energy_j:.0f} | {row.lost:.1%} | "
            + ("unchanged |" if row.lost == 0 else f"{shown} |")
        )
    return "\n".join(lines)


def measured_quality(path: Path | None) -> dict[str, float]:
    """Perplexity ratios by system, as ``python -m sim quality`` measured them. Raises: UserError for another file."""
    if path is None:
        return {}
    try:
        ratio = float(json.loads(path.read_text(encoding="utf-8"))["policy.perplexity_ratio"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--quality {path}: not a quality.json of `python -m sim quality` ({error!r})") from error
    return {"SMoE": ratio}


def draw(found: list[Row], folder: Path) -> None:
    """TPOT, memory, bytes and energy of every system, PDF and PNG."""
    import matplotlib.pyplot as plt

    from sim.figures.style import BLUE, STYLE, WIDTH_IN, add_footnote

    panels = (
        ("TPOT\n(ms)", [1e3 * row.tpot_s for row in found]),
        ("GPU or on-chip\nmemory (GB)", [row.memory_bytes / 1e9 for row in found]),
        ("link or DDR\n(MB/token)", [row.link_bytes / 1e6 for row in found]),
        ("energy proxy\n(mJ/token)", [1e3 * row.energy_j for row in found]),
    )
    places = np.arange(len(found))[::-1]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH_IN[2], 2.9), sharey=True, layout="constrained")
        for axis, (label, values) in zip(axes, panels, strict=True):
            axis.barh(places, values, color=BLUE, height=0.7)
            axis.set_xlabel(label)
            axis.grid(axis="y", visible=False)
        below = [1e3 * max(0.0, row.tpot_s - row.tpot_low_s) for row in found]
        above = [1e3 * max(0.0, row.tpot_high_s - row.tpot_s) for row in found]
        axes[0].errorbar(panels[0][1], places, xerr=[below, above], fmt="none", ecolor="black", elinewidth=0.8)
        axes[0].set_yticks(places, [row.system for row in found])
        note = "SIMULATED, batch 1, 6 MoE layers; bars of TPOT: 95 % over requests or draws; energy is ESTIMATED."
        add_footnote(figure, note)
        for kind in ("pdf", "png"):
            metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
            figure.savefig(folder / f"four_systems.{kind}", dpi=200, metadata=metadata)
        plt.close(figure)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="what train-predictor wrote; without it MoE-Beyond is left out")
    parser.add_argument("--quality", type=Path, help="quality.json of `python -m sim quality policy=importance`")
    parser.add_argument("--hardware", default="s1_rtx3080ti")
    parser.add_argument("--capacity", type=float, default=0.25, help="share of the experts that a GPU's cache holds")
    parser.add_argument("--draws", type=int, default=200, help="layer steps of the chiplet package")
    parser.add_argument("--out", type=Path, help="folder for four_systems.csv, .json, .pdf and .png")
    given = parser.parse_args(argv)
    try:
        found = list(rows(Bench(given), given.checkpoint))
        print(table(found, measured_quality(given.quality)))
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            frame = pd.DataFrame([asdict(row) | {"energy_j": row.energy_j, "label": "SIMULATED"} for row in found])
            write_whole(given.out / "four_systems.csv", frame.to_csv(index=False).encode())
            draw(found, given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
