"""Probes of a GPU and its link: timed by torch where it sees one, else the datasheet of what the driver names."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from sim.forecast.probe_found import Found, measured
from sim.validation.published.corpus.parts import LANE_GB_S, Part, find_part, shipped_parts

STREAM_BYTES = 512 * 2**20
COPIES = (2**20, 64 * 2**20)
"""Of host to device copies, from which latency and rate follow."""


def probe_cuda(found: Found, when: str) -> bool:
    """GPU and link by torch, where it is there and finds one."""
    try:
        import torch
    except ImportError:
        return False
    if not torch.cuda.is_available():
        return False
    name = torch.cuda.get_device_name()
    memory = torch.cuda.get_device_properties(0).total_memory
    found.put("gpu_memory_bytes", int(memory), f"MEASURED: {name}, as its driver says, on {when}")
    rate, error, words = measured("gpu", lambda: _gpu_rate(torch))
    found.put(
        "gpu_memory_bytes_per_s", rate, f"MEASURED: reading {STREAM_BYTES} bytes on {name}, {when}; {words}", error
    )
    flops, error, words = measured("flops", lambda: _gpu_flops(torch))
    found.put("gpu_flops_per_s", flops, f"MEASURED: product of two matrices of 4096 in 16 bits, {when}; {words}", error)
    small, _, _ = measured("copy", lambda: _copy_rate(torch, COPIES[0]))
    large, error, words = measured("copy", lambda: _copy_rate(torch, COPIES[1]))
    latency = max(0.0, COPIES[0] / small - COPIES[0] / large)
    found.put("link_latency_s", latency, f"MEASURED: copies of {COPIES[0]} bytes beside larger ones, {when}", 0.5)
    found.put("link_bytes_per_s", large, f"MEASURED: pinned copies of {COPIES[1]} bytes, {when}; {words}", error)
    return True


def _gpu_rate(torch: Any) -> float:
    data = torch.ones(STREAM_BYTES // 4, device="cuda")
    data.sum()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(8):
        data.sum()
    torch.cuda.synchronize()
    return float(8 * STREAM_BYTES / (time.perf_counter() - begin))


def _gpu_flops(torch: Any) -> float:
    matrix = torch.ones((4096, 4096), device="cuda", dtype=torch.float16)
    matrix @ matrix
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(8):
        matrix @ matrix
    torch.cuda.synchronize()
    return float(8 * 2 * 4096**3 / (time.perf_counter() - begin))


def _copy_rate(torch: Any, size: int) -> float:
    host, device = (
        torch.empty(size, dtype=torch.uint8).pin_memory(),
        torch.empty(size, dtype=torch.uint8, device="cuda"),
    )
    device.copy_(host, non_blocking=True)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(8):
        device.copy_(host, non_blocking=True)
        torch.cuda.synchronize()
    return float(8 * size / (time.perf_counter() - begin))


def known_gpu(found: Found) -> bool:
    """A GPU that the driver names and `parts.csv` holds: nothing is timed, its datasheet counts."""
    said = _driver_says()
    part = find_part(said[0], ("gpu",), shipped_parts()) if said else None
    if said is None or part is None:
        if said is not None:
            found.remarks.append(f"The GPU {said[0]} is not in parts.csv, and torch does not see it: left out.")
        return False
    _, megabytes, generation, lanes = said
    found.put("gpu_memory_bytes", int(megabytes * 2**20), f"MEASURED: {said[0]}, as its driver says")
    _put_datasheet(found, part)
    rate = 1e9 * LANE_GB_S.get(generation, LANE_GB_S[4]) * lanes * 0.8
    found.put("link_bytes_per_s", rate, f"ESTIMATED: 80 % of PCIe {generation} x{lanes}, as the driver says", 0.2)
    found.put("link_latency_s", 1.3e-6, "ESTIMATED: of other machines", 1.0)
    return True


def _put_datasheet(found: Found, part: Part) -> None:
    rate, flops = 1e9 * part.bandwidth_gb_s, 1e12 * part.fp16_tflops
    found.put("gpu_memory_bytes_per_s", rate, f"PUBLISHED: {part.part}, {part.source}", part.uncertainty)
    found.put("gpu_flops_per_s", flops, f"PUBLISHED: {part.part}, {part.source}", 0.3)


def _driver_says() -> tuple[str, float, int, int] | None:
    """(name, MiB, generation and lanes of PCIe) of the first GPU by nvidia-smi; None where there is none."""
    query = "--query-gpu=name,memory.total,pcie.link.gen.max,pcie.link.width.max"
    try:
        said = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        name, memory, generation, lanes = (word.strip() for word in said.splitlines()[0].split(","))
        return name, float(memory), int(generation), int(lanes)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def no_gpu(found: Found, when: str) -> None:
    """The CPU plays the device, whose memory is too small for anything: forecasts see that there is no GPU."""
    rate = found.figures["cpu_memory_bytes_per_s"]
    source = f"MEASURED: no GPU was found on {when}: the CPU's own figure"
    found.put("gpu_memory_bytes", 1, f"MEASURED: no GPU was found on {when}")
    found.put("gpu_memory_bytes_per_s", rate, source)
    found.put("gpu_flops_per_s", rate, f"ESTIMATED: no GPU was found on {when}; a number that is never used for one")
    found.put("link_latency_s", 0.0, f"MEASURED: no GPU was found on {when}: nothing is copied")
    found.put("link_bytes_per_s", rate, source)
