"""Load and limits: long and wide traces in bounded memory, odd machines, the same bytes whatever the surroundings."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.assignment.link_only import LinkOnly
from policies.base import Policy
from policies.eviction.lru import Lru
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from policies.substitution.none import NoSubstitution
from scripts.torture.faults import Tally
from scripts.torture.readers import small_trace
from sim.assembly.replay import assemble
from sim.config import RunConfig
from sim.engine.decision.counters import PARTS
from sim.machine.capacity import CacheConfig
from sim.machine.hardware import Hardware, load_hardware
from sim.metrics.step_table import StepTable
from traces.format.trace import DECODE, Geometry, Trace

ROOT = Path(__file__).resolve().parents[2]
LRU = Policy("lru", Lru(), NoPrediction(), NoPrefetch(), NoSubstitution(), LinkOnly())
MOST_RSS = 2 << 30


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
    from dataclasses import asdict

    flags = {"ranked": True, "score_function": "softmax_topk"}
    return {"schema_version": "1", "geometry": json.dumps(asdict(geometry)), "flags": json.dumps(flags)}


def _repeat(file: Any, rows: Any, count: int) -> None:
    for start in range(0, count, len(rows)):
        file.write(np.ascontiguousarray(rows[: count - start]).data)


def load(size: int) -> Tally:
    """Replay a long trace in a process of its own and look at the most memory that it held."""
    tally = Tally(f"a trace of {size / 1e9:g} GB")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TORTURE_FOLDER")) as work:
        path = Path(work) / "long.safetensors"
        tokens = long_trace(path, size)
        code = (
            "import resource, sys; from sim.__main__ import main; status = main(sys.argv[1:]); "
            "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024); sys.exit(status)"
        )
        argv = [
            "run",
            f"trace.path={path}",
            "policy=lru",
            "engine=compiled",
            "model=trace",
            f"hydra.run.dir={work}/out",
        ]
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=surroundings())
        wall_s = time.perf_counter() - begun
    tally.trials = 1
    peak = next((int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK")), 0)
    tally.outcomes[f"{tokens} tokens, peak {peak / 2**20:.0f} MiB, {wall_s:.0f} s"] = 1
    if done.returncode or not 0 < peak <= MOST_RSS:
        tally.defects[f"exit {done.returncode}, peak {peak} bytes: {done.stderr.strip()[-200:]}"] += 1
    return tally


def surroundings(**changes: str | None) -> dict[str, str]:
    """The environment with some variables set, or taken away with None; our own code is found."""
    kept = {**os.environ, "PYTHONPATH": str(ROOT)}
    kept |= {name: value for name, value in changes.items() if value is not None}
    return {name: value for name, value in kept.items() if changes.get(name, "") is not None}


SURROUNDINGS: dict[str, dict[str, str | None]] = {
    "as it is": {},
    "PYTHONHASHSEED=1": {"PYTHONHASHSEED": "1"},
    "PYTHONHASHSEED=2": {"PYTHONHASHSEED": "2"},
    "one thread": {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    "four threads": {"OMP_NUM_THREADS": "4"},
    "no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
    "no TERM": {"TERM": None},
    "ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cache that cannot be written": {"MOE_SIM_CACHE": "/proc/nowhere", "HOME": "/proc/nowhere"},
}  # fmt: skip


def same_bytes(names: tuple[str, ...] = tuple(SURROUNDINGS)) -> Tally:
    """metrics.json has the same bytes in every process, with any threads, hash seed, locale, cache."""
    tally, found = Tally("the same bytes in all surroundings"), {}
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            argv = [sys.executable, "-m", "sim", "run", "policy=importance", "engine=compiled", "trace.requests=4"]
            argv += [f"hydra.run.dir={work}/out"]
            done = subprocess.run(
                argv, capture_output=True, text=True, env=surroundings(**SURROUNDINGS[name]), cwd=work
            )
            tally.trials += 1
            tally.outcomes[f"exit {done.returncode}"] += 1
            if done.returncode or "Traceback" in done.stderr:
                tally.defects[f"{name}: exit {done.returncode}: {done.stderr.strip()[-300:]}"] += 1
                continue
            found[name] = hashlib.sha256(Path(work, "out", "metrics.json").read_bytes()).hexdigest()
    for name, digest in found.items():
        if digest != found[names[0]]:
            tally.defects[f"{name}: other bytes"] += 1
    return tally


def at_once(count: int = 2) -> Tally:
    """Processes that start together on an empty cache, into one output folder: all end well, with the same numbers."""
    tally = Tally(f"{count} processes at once on an empty cache")
    with tempfile.TemporaryDirectory() as work:
        argv = [sys.executable, "-m", "sim", "run", "policy=lru", "engine=compiled", "trace.requests=2"]
        environment = surroundings(MOE_SIM_CACHE=f"{work}/cache")
        argv += [f"hydra.run.dir={work}/out"]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        started = [subprocess.Popen(argv, env=environment, **pipes) for _ in range(count)]
        for process in started:
            _, said = process.communicate()
            tally.trials += 1
            tally.outcomes[f"exit {process.returncode}"] += 1
            if process.returncode:
                tally.defects[f"exit {process.returncode}: {said.decode()[-300:]}"] += 1
        alone = subprocess.run([*argv[:-1], f"hydra.run.dir={work}/alone"], env=environment, capture_output=True)
        found = {Path(work, folder, "metrics.json").read_bytes() for folder in ("out", "alone")}
        if alone.returncode or len(found) != 1:
            tally.defects["other numbers than alone"] += 1
        if left := list(Path(work).glob("out*/.*.part")):
            tally.defects[f"left behind: {left[0].name}"] += 1
    return tally


def demo_training_at_once() -> Tally:
    """Two processes that want the same demo model: it is trained once, and both get it."""
    tally = Tally("2 processes that train one demo model")
    code = (
        "from scripts.torture.readers import tiny_recipe; "
        "from traces.demo.cache import demo_model; from traces.corpus import Corpus, Document; "
        "documents = tuple(Document(str(i), d, (f'{d} {i} some words of a text ' * 40)) for i in range(9) "
        "for d in ('prose', 'code')); print(demo_model(tiny_recipe(), Corpus(documents, documents)))"
    )
    with tempfile.TemporaryDirectory() as work:
        argv = [sys.executable, "-c", code]
        environment = surroundings(MOE_SIM_CACHE=work, HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started = [subprocess.Popen(argv, env=environment, **pipes) for _ in range(2)]
        folders = set()
        for process in started:
            out, said = process.communicate()
            tally.trials += 1
            tally.outcomes[f"exit {process.returncode}"] += 1
            folders.add(out.strip().splitlines()[-1] if out.strip() else said[-300:])
        if len(folders) != 1 or not (Path(folders.pop()) / "training.json").is_file():
            tally.defects["not one whole model"] += 1
    return tally


def wide_trace(layers: int, experts: int, top_k: int, tokens: int, requests: int) -> Trace:
    """A random trace of a given shape; each request has tokens // requests rows, all decode."""
    rng = np.random.default_rng(0)
    ids = np.stack([np.argsort(rng.random((layers, experts)), -1)[:, :top_k] for _ in range(tokens)])
    each, nothing = tokens // requests, (0,) * layers
    return replace(
        small_trace(),
        geometry=Geometry("wide", layers, experts, top_k, (1000,) * layers, nothing, nothing, 0, 0, 1, 16.0),
        topk_ids=ids.astype(np.uint8 if experts <= 256 else np.uint16),
        topk_weights=None, router_logits=None, lookahead_before=None, lookahead_after=None, expert_similarity=None,
        token_ids=None, request_labels=None, score_function=None,
        request_offsets=np.arange(requests + 1, dtype=np.int64) * each,
        prompt_len=np.zeros(requests, np.int32),
        phase=np.full(tokens, DECODE, np.uint8),
    )  # fmt: skip


def machine(**changes: Any) -> Hardware:
    """A machine with some figures changed."""
    return replace(load_hardware("s1_rtx3080ti"), sources={}, label="ESTIMATED", **changes)


def replayed(trace: Trace, hardware: Hardware | None = None, batch_size: int = 1, slots: int = 1) -> dict[str, Any]:
    """Metrics of both engines, which must be equal, and whose parts must add up."""
    found = []
    for engine in ("compiled", "simpy"):
        run = RunConfig(engine=engine, batch_size=batch_size)
        cache = CacheConfig(slots_per_layer=slots)
        replay = assemble(trace, LRU, hardware or machine(), trace.geometry, cache, run)
        table = StepTable(replay)
        for result in replay.blocks():
            assert (result.latency_ns >= 0).all(), "a clock that goes back"
            assert (result.parts_ns.sum(1) == result.latency_ns).all(), f"{PARTS} do not add up"
            table.add(result)
        found.append(table.metrics())
    assert json.dumps(found[0], sort_keys=True) == json.dumps(found[1], sort_keys=True), "the engines differ"
    return dict(found[0])


def limits() -> Tally:
    """Shapes and machines at their limits: defined numbers, or a refusal in one sentence."""
    from traces.errors import UserError

    tally = Tally("shapes and machines at their limits")
    cases: dict[str, Callable[[], object]] = {
        "1,000 experts": lambda: replayed(wide_trace(2, 1000, 4, 12, 3), slots=10),
        "128 layers": lambda: replayed(wide_trace(128, 8, 2, 6, 2), slots=2),
        "top-k 1": lambda: replayed(wide_trace(3, 8, 1, 20, 2)),
        "top-k = E": lambda: replayed(wide_trace(3, 8, 8, 20, 2), slots=3),
        "batch 256": lambda: replayed(wide_trace(2, 16, 4, 512, 256), batch_size=256, slots=4),
        "requests of one token": lambda: replayed(wide_trace(2, 8, 2, 30, 30), slots=2),
        "batch far above the requests": lambda: replayed(wide_trace(2, 8, 2, 6, 3), batch_size=2**40, slots=2),
        "a clock of days": lambda: check_days(
            replayed(wide_trace(2, 8, 2, 6, 3), machine(link_bytes_per_s=1e-2), slots=1)
        ),
        "a clock beyond 64 bits": lambda: replayed(wide_trace(2, 8, 2, 6, 3), machine(link_bytes_per_s=1e-12)),
        "a link of any speed": lambda: replayed(wide_trace(2, 8, 2, 6, 3), machine(link_bytes_per_s=1e299)),
        "no bandwidth": lambda: machine(link_bytes_per_s=0),
        "infinite bandwidth": lambda: machine(link_bytes_per_s=float("inf")),
        "experts of no bytes": lambda: replayed(sized(wide_trace(2, 8, 2, 6, 3), 0)),
        "experts of 2**60 bytes": lambda: replayed(sized(wide_trace(2, 8, 2, 6, 3), 2**60)),
        "empty requests": lambda: validated(replace(small_trace(), request_offsets=np.array([0, 0, 9, 15], np.int64))),
    }
    refused = {"no bandwidth", "infinite bandwidth", "experts of no bytes", "experts of 2**60 bytes", "empty requests"}
    refused |= {"a clock beyond 64 bits"}
    for name, case in cases.items():
        tally.trials += 1
        try:
            case()
            outcome = "defined"
        except UserError:
            outcome = "refused"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        tally.outcomes[outcome if outcome in ("defined", "refused") else "defect"] += 1
        if outcome != ("refused" if name in refused else "defined"):
            tally.defects[f"{name}: {outcome}"] += 1
    return tally


def check_days(metrics: dict[str, Any]) -> None:
    assert metrics["simulated_s"] > 5 * 86400, "a replay of days took less"


def sized(trace: Trace, expert_bytes: int) -> Trace:
    """The trace with experts of another size."""
    sizes = (expert_bytes,) * trace.num_layers
    return replace(trace, geometry=replace(trace.geometry, expert_bytes=sizes))


def validated(trace: Trace) -> None:
    from traces.format.validation import validate

    validate(trace)


def peak_rss() -> int:
    """Most bytes of memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_bytes() -> int:
    """Room in the folder for temporary files."""
    return shutil.disk_usage(os.environ.get("TORTURE_FOLDER") or tempfile.gettempdir()).free
