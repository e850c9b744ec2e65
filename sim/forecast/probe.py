"""Probes this machine in under a minute into a hardware file: RAM, experts on the CPU, storage, GPU and link.

What `python -m sim calibrate` measures in minutes of real runs, this takes from single operations, and it measures the
whole machine, GPU and host at once. Figures are MEASURED where something was timed here, PUBLISHED where only the
name of a part is known; each says when, and how quiet the machine was.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sim.calibrate.hardware_file import as_yaml, processor
from sim.calibrate.samples import Sample, gate, sampled
from sim.machine.hardware import Hardware
from sim.machine.storage import READAHEAD_BYTES
from sim.validation.published.corpus.parts import LANE_GB_S, Part, find_part, shipped_parts
from traces.whole_file import write_whole

ROUNDS = 5
MAX_DISTURBANCE = 0.1
"""Share of all cores that others may have during a sample that counts."""
HIDDEN, FFN = 2048, 768
"""Of the experts that the CPU computes: those of Qwen3-30B-A3B, in 32 bits."""
STREAM_BYTES = 512 * 2**20
MOST_OF_FREE = 0.25
"""Share of the available memory that arrays may take."""
FETCH_BYTES = 4 * 2**20
"""A read of storage, about an expert of a model in four bits."""
READ_BYTES = (READAHEAD_BYTES, FETCH_BYTES)
STORAGE_BYTES = 256 * 2**20
COPIES = (2**20, 64 * 2**20)
"""Of host to device copies, from which latency and rate follow."""


@dataclass(slots=True)
class Found:
    """Figures of a hardware file with sources and relative errors, and what no field of it holds."""

    figures: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def put(self, name: str, value: float, source: str, error: float | None = None) -> None:
        """Enter a figure."""
        self.figures[name], self.sources[name] = value, source
        if error is not None:
            self.uncertainty[name] = error


def probe(path: Path) -> Hardware:
    """Measure this machine and write its hardware file. Raises: UserError where it cannot be written."""
    when, found = datetime.now(UTC).strftime("%Y-%m-%d"), Found()
    cpu = processor()
    _probe_host(found, when, cpu)
    _probe_storage(found, when, path.absolute().parent)
    if not (_probe_cuda(found, when) or _known_gpu(found)):
        _no_gpu(found, when)
    labels = [source.split(":")[0] for source in found.sources.values()]
    label = max(labels, key=("MEASURED", "PUBLISHED", "EMULATED", "FITTED", "ESTIMATED").index)
    figures = {name: value for name, value in found.figures.items() if name in Hardware.__dataclass_fields__}
    hardware = Hardware(
        name=path.stem,
        label=label,
        sources={name: found.sources[name] for name in figures},
        uncertainty={name: error for name, error in found.uncertainty.items() if name in figures},
        **figures,
    )
    said = "\n".join((f"Probed by python -m sim forecast hardware=here on {when}: {cpu}.", *found.remarks))
    text = as_yaml(hardware, said)
    if hardware.storage_rates:
        rows = "".join(f"  - [{', '.join(f'{value:.6g}' for value in row)}]\n" for row in hardware.storage_rates)
        text = text.replace("\nlabel: ", f"\nstorage_rates:\n{rows}label: ", 1)
    write_whole(path, text.encode())
    return Hardware.read(path)


def host_memory_bytes() -> float | None:
    """Memory of this machine; None where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def vector_words() -> str:
    """Width of the CPU's vectors as the corpus names it: AMX, AVX-512, AVX2 or NEON; empty where it is not known."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for flag, words in (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON")):
        if re.search(rf"\b{flag}\b", text):
            return words
    return ""


def _measured(kind: str, once: Callable[[], float]) -> tuple[float, float, str]:
    """(median, relative standard error, words on how it was measured) of a rate over some rounds."""
    samples: list[Sample] = []
    for number in range(ROUNDS):
        with sampled(kind, number) as sample:
            sample.values["rate"] = once()
        samples.append(sample)
    kept = gate(samples, kind, MAX_DISTURBANCE)
    rates = kept.values("rate")
    error = max(0.02, float(rates.std(ddof=1) / rates.mean() / np.sqrt(rates.size)) if rates.size > 1 else 0.1)
    others = 100 * float(np.median([sample.disturbance for sample in samples]))
    quiet = "quiet" if kept.quiet else "NOT QUIET: the least disturbed samples"
    words = f"median of {rates.size} samples, others had {others:.0f} % of the cores, {quiet}"
    return float(np.median(rates)), error if kept.quiet else max(error, 0.15), words


def _probe_host(found: Found, when: str, cpu: str) -> None:
    """RAM streamed, and experts of one token, by all cores."""
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        stream, _, stream_words = _measured("stream", _streaming(pool, threads))
        expert, error, words = _measured("cpu", _experts(pool, threads))
    found.put("cpu_cores", threads, f"MEASURED: cores of {cpu} that this process may use, on {when}")
    source = f"MEASURED: weights of experts of {HIDDEN} x {FFN} in 32 bits on one token, all cores, on {when}; {words}"
    found.put("cpu_memory_bytes_per_s", expert, f"{source}; {vector_words()}", error)
    found.remarks.append(f"RAM streamed (read) at {stream / 1e9:.1f} GB/s MEASURED, {stream_words}.")
    ram = host_memory_bytes()
    if ram:
        found.put("host_memory_bytes", int(ram), f"MEASURED: as the system says, on {when}")


def _budget() -> int:
    """Bytes that a probe may take."""
    try:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        free = 2**31
    return int(min(STREAM_BYTES, MOST_OF_FREE * free))


def _streaming(pool: ThreadPoolExecutor, threads: int) -> Callable[[], float]:
    data = np.ones(max(threads * 2**16, _budget() // 4), np.float32)
    parts = np.array_split(data, threads)

    def once() -> float:
        begin = time.perf_counter()
        list(pool.map(np.dot, parts, parts))
        return data.nbytes / (time.perf_counter() - begin)

    return once


def _experts(pool: ThreadPoolExecutor, threads: int) -> Callable[[], float]:
    size = 3 * HIDDEN * FFN
    count = max(2, _budget() // (4 * size))
    weights = np.ones((count, 3 * FFN, HIDDEN), np.float32)
    state = np.ones(HIDDEN, np.float32)
    slices = np.array_split(np.arange(3 * FFN), threads)

    def rows(place: Any) -> None:
        for one in weights:
            np.dot(one[place[0] : place[-1] + 1], state)

    def once() -> float:
        begin = time.perf_counter()
        list(pool.map(rows, slices))
        return weights.nbytes / (time.perf_counter() - begin)

    return once


def _probe_storage(found: Found, when: str, folder: Path) -> None:
    """Reads of a fetch's size from a file beside the result that is in no cache; a remark where that cannot be."""
    rows, words = [], ""
    try:
        with _cold_file(folder) as file:
            for size in READ_BYTES:
                scattered, _, words = _measured("storage", partial(_read_rate, file, size, True))
                in_order, _, words = _measured("storage", partial(_read_rate, file, size, False))
                rows.append((float(size), 1.0, scattered, in_order))
    except (OSError, AttributeError) as error:
        found.remarks.append(f"Storage was not measured: {error}.")
        return
    found.figures["storage_rates"] = tuple(rows)
    found.sources["storage_rates"] = (
        f"MEASURED: one read at a time past the page cache in {folder}, a file of {STORAGE_BYTES} bytes, on {when}; "
        f"{words}"
    )


@contextmanager
def _cold_file(folder: Path) -> Iterator[int]:
    """A file of random bytes on disk -> its descriptor."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
        block = np.random.default_rng(0).bytes(FETCH_BYTES)
        for _ in range(STORAGE_BYTES // FETCH_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        yield file.fileno()


def _read_rate(file: int, size: int, scattered: bool) -> float:
    """Bytes per second of reads that no cache serves, in random order or in that of the file."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    places = np.arange(STORAGE_BYTES // size)
    if scattered:
        np.random.default_rng().shuffle(places)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM if scattered else os.POSIX_FADV_SEQUENTIAL)
    some = places[: max(1, len(places) // (4 if size < FETCH_BYTES else 1))].tolist()
    begin = time.perf_counter()
    for place in some:
        os.pread(file, size, place * size)
    return len(some) * size / (time.perf_counter() - begin)


def _probe_cuda(found: Found, when: str) -> bool:
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
    rate, error, words = _measured("gpu", lambda: _gpu_rate(torch))
    found.put(
        "gpu_memory_bytes_per_s", rate, f"MEASURED: reading {STREAM_BYTES} bytes on {name}, {when}; {words}", error
    )
    flops, error, words = _measured("flops", lambda: _gpu_flops(torch))
    found.put("gpu_flops_per_s", flops, f"MEASURED: product of two matrices of 4096 in 16 bits, {when}; {words}", error)
    small, _, _ = _measured("copy", lambda: _copy_rate(torch, COPIES[0]))
    large, error, words = _measured("copy", lambda: _copy_rate(torch, COPIES[1]))
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


def _known_gpu(found: Found) -> bool:
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


def _no_gpu(found: Found, when: str) -> None:
    """The CPU plays the device, whose memory is too small for anything: forecasts see that there is no GPU."""
    rate = found.figures["cpu_memory_bytes_per_s"]
    source = f"MEASURED: no GPU was found on {when}: the CPU's own figure"
    found.put("gpu_memory_bytes", 1, f"MEASURED: no GPU was found on {when}")
    found.put("gpu_memory_bytes_per_s", rate, source)
    found.put("gpu_flops_per_s", rate, f"ESTIMATED: no GPU was found on {when}; a number that is never used for one")
    found.put("link_latency_s", 0.0, f"MEASURED: no GPU was found on {when}: nothing is copied")
    found.put("link_bytes_per_s", rate, source)
