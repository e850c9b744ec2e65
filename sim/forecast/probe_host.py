"""Probes of RAM, of experts on the CPU, and of storage."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sim.forecast.probe_found import Found, measured
from sim.machine.storage import READAHEAD_BYTES

HIDDEN, FFN = 2048, 768
"""Of the experts that the CPU computes: those of Qwen3-30B-A3B, in 32 bits."""
STREAM_BYTES = 512 * 2**20
MOST_OF_FREE = 0.25
"""Share of the available memory that arrays may take."""
FETCH_BYTES = 4 * 2**20
"""A read of storage, about an expert of a model in four bits."""
READ_BYTES = (READAHEAD_BYTES, FETCH_BYTES)
STORAGE_BYTES = 256 * 2**20


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


def probe_host(found: Found, when: str, cpu: str) -> None:
    """RAM streamed, and experts of one token, by all cores."""
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        stream, _, stream_words = measured("stream", _streaming(pool, threads))
        expert, error, words = measured("cpu", _experts(pool, threads))
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


def probe_storage(found: Found, when: str, folder: Path) -> None:
    """Reads of a fetch's size from a file beside the result that is in no cache; a remark where that cannot be."""
    rows, words = [], ""
    try:
        with _cold_file(folder) as file:
            for size in READ_BYTES:
                scattered, _, words = measured("storage", partial(_read_rate, file, size, True))
                in_order, _, words = measured("storage", partial(_read_rate, file, size, False))
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
