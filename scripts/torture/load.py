"""Load: a trace of many gigabytes is replayed in bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scripts.command_line import environment
from scripts.torture.tally import Tally
from traces.format.trace import DECODE, Geometry

MOST_RSS = 2 << 30
REPLAY = """
import resource, sys
from sim.__main__ import main
status = main(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""


def long_trace(path: Path, size: int) -> int:
    """Write a trace of about `size` bytes, 24 layers, 4 of 128 experts with all scores, piece by piece -> its tokens.

    The rows repeat some that were drawn; the scores are a hole in the file, zeros that take no room on the disk.
    """
    layers, top_k, experts = 24, 4, 128
    row_bytes = layers * top_k * 3 + 1 + layers * experts * 2
    tokens, length = size // row_bytes, 1000
    tokens -= tokens % length
    block = -(-tokens // length // 100) * length
    rng = np.random.default_rng(0)
    first = rng.integers(0, experts, (block, layers, 1))
    ids = ((first + np.cumsum(rng.integers(1, 30, (block, layers, top_k)), -1)) % experts).astype(np.uint8)
    weights = np.broadcast_to(np.array([0.4, 0.3, 0.2, 0.1], np.float16), (block, layers, top_k))
    geometry = Geometry("long", layers, experts, top_k, (1000,) * layers, (0,) * layers, (0,) * layers, 0, 0, 1, 16.0)
    requests = tokens // length
    shapes: dict[str, tuple[str, list[int], int]] = {
        "request_offsets": ("I64", [requests + 1], 8 * (requests + 1)),
        "prompt_len": ("I32", [requests], 4 * requests),
        "topk_weights": ("F16", [tokens, layers, top_k], 2 * tokens * layers * top_k),
        "phase": ("U8", [tokens], tokens),
        "topk_ids": ("U8", [tokens, layers, top_k], tokens * layers * top_k),
        "router_logits": ("F16", [tokens, layers, experts], 2 * tokens * layers * experts),
    }
    text, at = {"__metadata__": _metadata(geometry)}, 0
    claims: dict[str, Any] = dict(text)
    for name, (dtype, shape, nbytes) in shapes.items():
        claims[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    header = json.dumps(claims).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(np.arange(0, tokens + 1, length, dtype=np.int64).data)
        file.write(np.zeros(requests, np.int32).data)
        _repeat(file, np.ascontiguousarray(weights), tokens)
        _repeat(file, np.full(block, DECODE, np.uint8), tokens)
        _repeat(file, ids, tokens)
        file.truncate(8 + len(header) + at)
    return tokens


def _metadata(geometry: Geometry) -> dict[str, str]:
    flags = {"ranked": True, "score_function": "softmax_topk"}
    return {"schema_version": "1", "geometry": json.dumps(asdict(geometry)), "flags": json.dumps(flags)}


def _repeat(file: Any, rows: Any, count: int) -> None:
    for start in range(0, count, len(rows)):
        file.write(np.ascontiguousarray(rows[: count - start]).data)


def replay_long(size: int) -> Tally:
    """Replay a long trace in a process of its own and look at the most memory that it held."""
    tally = Tally(f"a trace of {size / 1e9:g} GB", trials=1)
    place = os.environ.get("TORTURE_FOLDER")
    if shutil.disk_usage(place or tempfile.gettempdir()).free < 0.1 * size:
        return Tally("load", outcomes=Counter({"not tried: no room for the trace, see TORTURE_FOLDER": 1}))
    with tempfile.TemporaryDirectory(dir=place) as work:
        path = Path(work) / "long.safetensors"
        tokens = long_trace(path, size)
        words = (f"trace.path={path}", "policy=lru", "engine=compiled", "model=trace", f"hydra.run.dir={work}/out")
        argv = [sys.executable, "-c", REPLAY, "run", *words]
        start = time.perf_counter()
        done = subprocess.run(argv, capture_output=True, text=True, env=environment())
        wall_s = time.perf_counter() - start
    peak = next((int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK")), 0)
    tally.outcomes[f"{tokens} tokens, peak {peak / 2**20:.0f} MiB, {wall_s:.0f} s"] = 1
    if done.returncode or not 0 < peak <= MOST_RSS:
        tally.defects[f"exit {done.returncode}, peak {peak} bytes: {done.stderr.strip()[-200:]}"] += 1
    return tally
