"""What the benchmark times: engines, the textbook model, libcachesim, the miss curve and start-up."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scripts.benchmarks.textbook_simpy import Textbook, Times
from scripts.benchmarks.textbook_smoe import TextbookSmoe
from scripts.benchmarks.textbook_smoe import Times as SmoeTimes
from scripts.command_line import environment
from sim.assembly.catalogue import load_policy
from sim.assembly.replay import DeviceSetup, Replay, assemble
from sim.config import RunConfig
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware
from sim.machine.host_store import HostConfig
from sim.machine.machine import Machine
from sim.machine.parts import HOST
from sim.machine.runtime import Runtime
from sim.paths import ROOT
from traces.format.trace import Trace

FOUR_PART = (
    "importance", "importance_plus_1", "importance_plus", "smoe_code", "dali", "hybrimoe_paper", "hybrimoe_true_costs",
    "ktransformers", "adapmoe", "mixtral_offloading_paper", "llama_cpp_moe_cache", "cache_prior", "edgemoe",
)  # fmt: skip
"""Policies of more than eviction that need nothing of other requests."""
POLICIES = {name: load_policy(name) for name in ("lru", "belady", *FOUR_PART)}
MACHINE = Machine(
    Hardware(
        name="benchmark",
        gpu_memory_bytes=10**12,
        gpu_memory_bytes_per_s=1e12,
        gpu_flops_per_s=1e24,
        link_latency_s=1.3e-8,
        link_bytes_per_s=2.5e10,
        cpu_memory_bytes_per_s=5.03e10,
    ),
    Runtime("benchmark", host_s_per_layer=1.0007e-4, staging_slots=2),
)
SLOTS = 8
DRIVE = MACHINE.with_figures({"storage_rates": [[1e6, 1, 5.03e9, 5.03e9]], "storage_latency_s": 6e-5})
"""The same machine with a drive."""


def replay_of(trace: Trace, policy: str, engine: str, in_host: float | None = None) -> Replay:
    """A replay with 8 slots per layer; ``in_host``: host memory holds this share of the experts, a drive the rest.

    Raises: UserError where there is no such engine.
    """
    cache, run = CacheConfig(slots_per_layer=SLOTS), RunConfig(engine=engine)
    if in_host is None:
        return assemble(trace, DeviceSetup(POLICIES[policy], MACHINE, cache, run))
    host = HostConfig(bytes=int(in_host * sum(trace.geometry.expert_bytes or ()) * trace.num_experts))
    return assemble(trace, DeviceSetup(POLICIES[policy], DRIVE, cache, run, host=host))


def engine_run(trace: Trace, policy: str, engine: str, in_host: float | None = None) -> tuple[float, int, int]:
    """(seconds, hits, final time in ns) of a replay without its outputs; building it is not timed."""
    replay = replay_of(trace, policy, engine, in_host)
    start, hits, end_ns = time.process_time(), 0, 0
    for result in replay.blocks():
        hits += int(result.counts[:, 0].sum())
        end_ns += int(result.latency_ns.sum())
    return time.process_time() - start, hits, end_ns


def split_run(trace: Trace, policy: str) -> tuple[float, float]:
    """Seconds that a replay on the compiled engine takes to read what the policy wants, and to replay it."""
    replay, reading, replaying = replay_of(trace, policy, "compiled"), 0.0, 0.0
    for block in replay.schedule.blocks(min(replay.reader.block_rows(), replay.steps_at_once)):
        start = time.process_time()
        data = replay.reader.read(block)
        read = time.process_time()
        replay.engine.replay(block, data)
        reading, replaying = reading + read - start, replaying + time.process_time() - read
    return reading, replaying


def textbook_run(trace: Trace, tokens: int) -> tuple[float, int, int]:
    """(seconds, hits, final time in ns) of the textbook model on the first tokens."""
    durations = replay_of(trace, "lru", "simpy").durations
    times = Times(int(durations.before_lookup_ns[HOST]), int(durations.expert_ns[0, 1]), int(durations.copy_ns[0]))
    model = Textbook(trace.num_layers, SLOTS, times)
    start = time.process_time()
    hits, end_ns = model.run(trace.topk_ids[:tokens])
    return time.process_time() - start, hits, end_ns


def textbook_smoe_run(trace: Trace, tokens: int) -> tuple[float, int, int]:
    """(seconds, hits, final time in ns) of the textbook model of the four-part policy; reading scores is not timed."""
    durations = replay_of(trace, "importance", "simpy").durations
    assert durations.cpu_expert_ns is not None and trace.lookahead_before is not None
    copy_ns, expert_ns = int(durations.copy_ns[0]), int(durations.expert_ns[0, 1])
    times = SmoeTimes(int(durations.before_lookup_ns[HOST]), expert_ns, copy_ns, int(durations.cpu_expert_ns[0, 1]))
    model = TextbookSmoe((trace.num_layers, trace.num_experts), SLOTS, times)
    scores = trace.gate_scores(0, tokens)
    early = trace.lookahead_before.probabilities(0, tokens, trace.num_experts)
    start = time.process_time()
    hits, end_ns = model.run(trace.topk_ids[:tokens], scores, early)
    return time.process_time() - start, hits, end_ns


def write_oracle_general(folder: Path, trace: Trace) -> list[Path]:
    """One file per layer in libcachesim's binary format, 24 bytes per access."""
    record = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])
    paths = []
    for layer in range(trace.num_layers):
        accesses = np.zeros(trace.num_tokens * trace.top_k, record)
        accesses["object"] = trace.topk_ids[:, layer].reshape(-1).astype(np.uint64) + 1
        accesses["size"], accesses["next"] = 1, -2
        paths.append(folder / f"{layer}.oracleGeneral")
        accesses.tofile(paths[-1])
    return paths


def libcachesim_run(paths: list[Path], **settings: int) -> tuple[float, float]:
    """(seconds, hit rate) of bulk LRU, one cache per layer, one access at a time; making the caches is not timed."""
    import libcachesim

    seconds, rates = 0.0, []
    for path in paths:
        reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
        cache = libcachesim.LRU(SLOTS, **settings)
        start = time.process_time()
        misses, _ = cache.process_trace(reader)
        seconds += time.process_time() - start
        rates.append(1 - misses)
    return seconds, float(np.mean(rates))


START = """
import os, sys, time
import sim.metrics.step_table
from sim.__main__ import main
def first_block(self, result):
    print("first step after", time.time() - float(os.environ["STARTED"]), flush=True)
    os._exit(0)
sim.metrics.step_table.StepTable.add = first_block
main(["run", "policy=lru", "trace.requests=1", *sys.argv[1:]])
"""


def start_s(engine: str, cache: Path | None = None) -> float:
    """Seconds from starting ``python -m sim run`` until it has replayed the first request of the embedded trace."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"engine={engine}", f"hydra.run.dir={folder}"]
        command = [sys.executable, "-c", START, *overrides]
        extra = {"MOE_SIM_CACHE": str(cache)} if cache else {}
        variables = environment(STARTED=repr(time.time()), **extra)
        run = subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return float(run.stdout.split()[-1])
