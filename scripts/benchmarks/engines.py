"""Print speed, memory and start-up, every ratio from one run: python -m scripts.benchmarks.engines [--data FOLDER]

Replays the first 28,000 tokens of gpt-oss-20b (--data: the folder of the importer gpt_oss), or a drawn trace of the
same shape and locality: 24 layers, top 4 of 32 experts, 8 slots per layer. Times are the best and the median of
--repeats runs in turn, in seconds of one core's time, so that other work on the machine counts little; only start-up is
by the clock on the wall. Ratios are of the best. libcachesim is measured where it is installed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from scripts.benchmarks.cases import (
    engine_run,
    libcachesim_run,
    peak_bytes,
    replay_of,
    start_s,
    textbook_run,
    textbook_smoe_run,
    tiled,
    write_oracle_general,
)
from scripts.benchmarks.traces import drawn_trace, recorded_trace, with_scores
from traces.errors import UserError
from traces.format.trace import Trace
from traces.statistics.miss_curve import lru_miss_curve

TOKENS = 28_000
TEXTBOOK_TOKENS = 1_000
SIMPY_TOKENS = 4_000
ENGINES = ("simpy", "compiled")


@dataclass
class Case:
    """One row: a run that returns its seconds, over some number of tokens."""

    name: str
    tokens: int
    run: Callable[[], float]
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.seconds)


def timed(run: Callable[[], tuple[float, int, int]]) -> Callable[[], float]:
    return lambda: run()[0]


def curve_s(trace: Trace) -> float:
    """Seconds of one pass for the LRU hits at every capacity."""
    start = time.process_time()
    lru_miss_curve(trace)
    return time.process_time() - start


def head(trace: Trace, tokens: int) -> Trace:
    """The whole requests of a trace that begin within the first tokens."""
    return trace.select_requests(max(1, int((trace.request_offsets[1:] <= tokens).sum())))


def available(trace: Trace) -> list[str]:
    """The engines this version has; says which are missing."""
    found = []
    for engine in ENGINES:
        try:
            replay_of(trace, "lru", engine)
            found.append(engine)
        except UserError as error:
            print(f"engine {engine} is missing: {error}\n")
    return found


def check_equal(trace: Trace, engines: list[str]) -> None:
    """The textbook models and the engines agree before any is timed."""
    short = with_scores(head(trace, TEXTBOOK_TOKENS))
    for policy, textbook in (("lru", textbook_run), ("importance", textbook_smoe_run)):
        expected = textbook(short, short.num_tokens)[1:]
        for engine in engines:
            found = engine_run(short, policy, engine)[1:]
            if found != expected:
                raise SystemExit(f"{policy}, {engine}: hits and end {found}, the textbook model has {expected}")
        print(f"textbook and {', '.join(engines)}, {policy}: {expected[0]} hits and {expected[1]} ns in ", end="")
        print(f"{short.num_tokens} tokens")
    print()


def cases(trace: Trace, engines: list[str], layer_files: list[Path]) -> Iterator[Case]:
    """All timed rows."""
    scored, slower = with_scores(trace), head(trace, SIMPY_TOKENS)
    quarter = head(trace, TOKENS // 4)
    yield Case("textbook SimPy, lru", TEXTBOOK_TOKENS, timed(lambda: textbook_run(trace, TEXTBOOK_TOKENS)))
    yield Case("textbook SimPy, importance", TEXTBOOK_TOKENS, timed(lambda: textbook_smoe_run(scored, TEXTBOOK_TOKENS)))
    yield Case("engine=simpy, lru", slower.num_tokens, timed(lambda: engine_run(slower, "lru", "simpy")))
    scored_slower = head(scored, SIMPY_TOKENS)
    yield Case(
        "engine=simpy, importance", slower.num_tokens, timed(lambda: engine_run(scored_slower, "importance", "simpy"))
    )
    if "compiled" in engines:
        yield Case("engine=compiled, lru", trace.num_tokens, timed(lambda: engine_run(trace, "lru", "compiled")))
        yield Case(
            "engine=compiled, lru, 1/4 of the tokens",
            quarter.num_tokens,
            timed(lambda: engine_run(quarter, "lru", "compiled")),
        )
        yield Case(
            "engine=compiled, importance",
            trace.num_tokens,
            timed(lambda: engine_run(scored, "importance", "compiled")),
        )
    if layer_files:
        yield Case("libcachesim LRU, default", trace.num_tokens, lambda: libcachesim_run(layer_files)[0])
        yield Case(
            "libcachesim LRU, hashpower=10", trace.num_tokens, lambda: libcachesim_run(layer_files, hashpower=10)[0]
        )
    yield Case("LRU miss curve, all capacities", trace.num_tokens, lambda: curve_s(trace))


def print_table(done: dict[str, Case], trace: Trace) -> None:
    """Rows with time per layer step and per access, and how many times as fast as the textbook model."""
    print("| run | tokens | best s | median s | ns per layer step | M accesses/s | times textbook lru |")
    print("|---|---|---|---|---|---|---|")
    textbook = done["textbook SimPy, lru"]
    for case in done.values():
        step_ns = case.best / case.tokens / trace.num_layers * 1e9
        times = textbook.best / textbook.tokens * case.tokens / case.best
        median = statistics.median(case.seconds)
        speed = f"{step_ns:,.0f} | {trace.top_k / step_ns * 1e3:.3g} | {times:.3g}"
        print(f"| {case.name} | {case.tokens} | {case.best:.4g} | {median:.4g} | {speed} |")
    print()


def ratio(done: dict[str, Case], fast: str, slow: str) -> float | None:
    """How many times as fast per token; None where one of them was not measured."""
    if fast not in done or slow not in done:
        return None
    return (done[slow].best / done[slow].tokens) / (done[fast].best / done[fast].tokens)


def print_targets(
    done: dict[str, Case], trace: Trace, memory: dict[str, float], start: float, compile_s: float
) -> None:
    """What is to be reached, and what was."""
    curve = done["LRU miss curve, all capacities"]
    compiled, textbook, four = "engine=compiled, lru", "textbook SimPy, lru", "engine=compiled, importance"
    rows: list[tuple[str, float | None, str]] = [
        ("compiled lru, times textbook", ratio(done, compiled, textbook), ">= 100"),
        ("compiled lru, times libcachesim default", ratio(done, compiled, "libcachesim LRU, default"), ">= 2"),
        ("compiled lru, times libcachesim hashpower=10", ratio(done, compiled, "libcachesim LRU, hashpower=10"), ""),
        ("compiled importance, times textbook importance", ratio(done, four, "textbook SimPy, importance"), ">= 50"),
        ("compiled importance, times textbook lru", ratio(done, four, textbook), ""),
        ("engine=simpy lru, times textbook", ratio(done, "engine=simpy, lru", textbook), ">= 1.5"),
        ("cost per token, whole trace over a quarter", ratio(done, f"{compiled}, 1/4 of the tokens", compiled), "1"),
        ("miss curve, M accesses/s", curve.tokens * trace.num_layers * trace.top_k / curve.best / 1e6, ">= 20"),
        *((f"peak memory at 10 times the tokens, {name}", value, "<= 1.05") for name, value in memory.items()),
        ("start until the first step, s", start, "<= 1.5"),
        ("start with nothing compiled, s", compile_s, "< 20"),
    ]
    print("| what | measured | target |\n|---|---|---|")
    for name, value, target in rows:
        print(f"| {name} | {'not measured' if value is None else f'{value:.3g}'} | {target} |")


def memory_ratios(trace: Trace, engine: str) -> dict[str, float]:
    """Peak memory at 10 times the tokens over that at once the tokens, by policy."""
    short = trace if engine == "compiled" else head(trace, TOKENS // 10)
    found = {}
    for policy in ("lru", "belady"):
        peak_bytes(tiled(head(trace, 1), 1), policy, engine)  # compiles
        once, often = (peak_bytes(tiled(short, times), policy, engine) for times in (1, 10))
        found[f"{policy} ({short.num_tokens} tokens: {once / 1e6:.0f} MB)"] = often / once
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the gpt-oss-20b recording; without it a trace is drawn")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    trace = recorded_trace(options.data, TOKENS) if options.data else drawn_trace(TOKENS)
    print(
        f"{'recorded' if options.data else 'drawn'} trace of {trace.num_tokens} tokens; {platform.machine()}, ", end=""
    )
    print(f"Python {platform.python_version()}, numba {version('numba')}, simpy {version('simpy')}\n")
    engines = available(trace)
    check_equal(trace, engines)
    with tempfile.TemporaryDirectory() as folder:
        files = write_oracle_general(Path(folder), trace) if find_spec("libcachesim") else []
        done = {case.name: case for case in cases(trace, engines, files)}
        for case in done.values():
            case.run()  # compiles
        for _ in range(options.repeats):
            for case in done.values():
                case.seconds.append(case.run())
        if files:
            print(f"libcachesim, one access at a time: hit rate {libcachesim_run(files)[1]:.4f}")
            print(f"the engines, step by step: hit rate {lru_miss_curve(trace).hit_rate(8):.4f}\n")
    print_table(done, trace)
    memory = memory_ratios(trace, engines[-1])
    start = min(start_s(engines[-1]) for _ in range(options.repeats))
    with tempfile.TemporaryDirectory() as empty:
        compile_s = start_s(engines[-1], Path(empty))
    print_targets(done, trace, memory, start, compile_s)


if __name__ == "__main__":
    main()
