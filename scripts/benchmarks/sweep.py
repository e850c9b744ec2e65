"""Prints how long a sweep of 1,000 short runs takes: python -m scripts.benchmarks.sweep [--data FOLDER] [--workers 2]

Replays the first 28,000 tokens of gpt-oss-20b (--data: the folder of the importer gpt_oss), or a drawn trace of the
same shape, under 10 eviction rules x 10 capacities x 10 link rates with the compiled engine: ten jobs of the joblib
launcher (extra `sweep`), each with a grid of 100 runs. Everything counts, from start to the gathered table.
Overhead is what is not spent replaying: composing, building, opening the trace, writing, gathering.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from scripts.benchmarks.traces import benchmark_trace, data_option
from scripts.command_line import parser_of, run
from traces.errors import UserError
from traces.format.files import write_trace

EVICTIONS = (
    "lru", "lfu", "fifo", "random", "aged_lfu", "lfu_lifetime", "in_cache_visits", "least_stale", "belady",
    "belady_admit",
)  # fmt: skip
FRACTIONS = [0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875]
LINKS = [3.0e9, 6.0e9, 9.0e9, 12.0e9, 16.0e9, 20.0e9, 26.0e9, 40.0e9, 52.0e9, 104.0e9]


def command(trace: Path, folder: Path, workers: int, runs: int) -> list[str]:
    """The sweep, of all configurations or of the first ones only."""
    jobs = max(1, round(runs / (len(FRACTIONS) * len(LINKS))))
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"] if workers > 1 else []
    return [
        sys.executable, "-m", "sim", "run", "-m", "policy=lru", f"policy/eviction={','.join(EVICTIONS[:jobs])}",
        "engine=compiled", "model=trace", f"trace.path={trace}", "sweep.steps=false", f"hydra.sweep.dir={folder}",
        f"+sweep.grid.cache.fraction={FRACTIONS}".replace(" ", ""),
        f"+sweep.grid.hardware.link_bytes_per_s={LINKS}".replace(" ", ""), *launcher,
    ]  # fmt: skip


def seconds_of(words: list[str]) -> tuple[float, float]:
    """(seconds on the wall, seconds of all its processes) of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    wall_s = time.perf_counter() - start
    if done.returncode:
        raise UserError(f"the sweep ended with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: list[str]) -> None:
    """Write the trace, run the sweep, run it again (nothing is left to do), print."""
    parser = parser_of(__doc__)
    data_option(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1000, help="rounded to whole jobs of 100 runs")
    options = parser.parse_args(argv)
    if options.workers > 1 and find_spec("joblib") is None:
        raise UserError("two workers need the extra `sweep`: pip install -e '.[sweep]', or give --workers 1")
    trace = benchmark_trace(options.data, scores=False)
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "trace.safetensors", Path(name) / "sweep"
        write_trace(path, trace)
        words = command(path, folder, options.workers, options.runs)
        load = os.getloadavg()[0]
        wall_s, cpu_s = seconds_of(words)
        table = pd.read_parquet(folder / "results.parquet")
        again_s, _ = seconds_of(words)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    runs, replay_s = len(table), float(table["replay_wall_s"].sum())
    rest_s = wall_s * options.workers - replay_s
    print(f"MEASURED on {os.cpu_count()} cores, load before it {load:.1f}, {options.workers} workers")
    print(f"{runs} runs x {trace.num_tokens} tokens x {trace.num_layers} layers: {wall_s:.1f} s, {cpu_s:.1f} s of CPU")
    print(
        f"a worker's time per run: replay {1e3 * replay_s / runs:.0f} ms, all else {1e3 * rest_s / runs:.0f} ms (wall)"
    )
    print(f"the same command again, nothing left to do: {again_s:.1f} s; files {size / 1e6:.0f} MB")


if __name__ == "__main__":
    run(main)
