"""Pages of a mapped file are given back, and read again when they are needed."""

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.random_traces import recorded_trace
from traces.format.files import read_trace, write_trace
from traces.format.mapped import release
from traces.format.tensors import hash_content, release_rows

only_where_visible = pytest.mark.skipif(
    not (hasattr(mmap, "MADV_DONTNEED") and Path("/proc/self/smaps").exists()), reason="only Linux shows what is held"
)
ROWS, WIDTH = 16384, 1024


def resident_bytes(path):
    """Bytes of the mappings of a file that this process holds in memory."""
    total, here = 0, False
    with Path("/proc/self/smaps").open() as lines:
        for line in lines:
            if "-" in line.split()[0]:
                here = line.rstrip().endswith(str(path))
            elif here and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.fixture
def mapped(tmp_path):
    """A mapped file of 16 MiB, and its path."""
    path = tmp_path / "numbers"
    np.arange(ROWS * WIDTH, dtype=np.uint32).astype(np.uint8).tofile(path)
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray).reshape(ROWS, WIDTH), path


@only_where_visible
def test_released_pages_leave_memory_and_come_back(mapped):
    array, path = mapped
    before = array.sum(dtype=np.int64)
    assert resident_bytes(path) >= array.nbytes
    release(array[: ROWS // 2])
    assert resident_bytes(path) <= array.nbytes // 2 + (1 << 21)
    release(array)
    assert resident_bytes(path) == 0
    assert array.sum(dtype=np.int64) == before


def test_memory_that_is_not_mapped_or_may_be_written_keeps_its_content(tmp_path, mapped):
    own = np.arange(10)
    release(own[2:5])
    assert own.tolist() == list(range(10))
    _, path = mapped
    private = np.memmap(path, np.uint8, mode="c")
    private[:] = 7
    release(private)
    assert (private == 7).all()


@only_where_visible
def test_checking_and_hashing_a_trace_keeps_only_a_chunk_of_it_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "long.safetensors"
    written = write_trace(path, recorded_trace(0, (0,), (4000,), num_layers=4, num_experts=64))
    size = path.stat().st_size
    monkeypatch.setattr("traces.format.tensors.CHUNK_BYTES", size // 64)
    trace = read_trace(path)
    assert resident_bytes(path) < size // 8
    assert hash_content(replace(trace, content_hash="")) == written.content_hash
    assert resident_bytes(path) < size // 8
    np.array(trace.topk_ids), np.array(trace.router_logits.values)
    assert resident_bytes(path) > size // 4
    release_rows(trace, 0, trace.num_tokens)
    assert resident_bytes(path) < size // 8
