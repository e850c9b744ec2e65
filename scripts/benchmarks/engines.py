"""Prints speed and start-up, every ratio from one run: python -m scripts.benchmarks.engines [--data FOLDER]

Replays the first 28,000 tokens of gpt-oss-20b (--data: the folder of the importer gpt_oss), or a drawn trace of the
same shape and locality: 24 layers, top 4 of 32 experts, 8 slots per layer. Times are the best and the median of
--repeats runs in turn, in seconds of one core's time, so that other work on the machine counts little; only start-up is
by the clock on the wall. Ratios are of the best. libcachesim is measured where it is installed.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from scripts.benchmarks.cases import (
    FOUR_PART,
    engine_run,
    libcachesim_run,
    replay_of,
    split_run,
    start_s,
    textbook_run,
    textbook_smoe_run,
    write_oracle_general,
)
from scripts.benchmarks.timing import in_turn, processor_s
from scripts.benchmarks.traces import TOKENS, benchmark_trace, data_option, with_scores
from scripts.command_line import parser_of, print_table, run
from traces.errors import UserError
from traces.format.trace import Trace
from traces.statistics.miss_curve import lru_miss_curve

TEXTBOOK_TOKENS = 1_000
SIMPY_TOKENS = 4_000
ENGINES = ("simpy", "compiled")
IN_HOST = 0.5
TWO_TIERS = f"engine=compiled, lru, {IN_HOST:g} in host memory"


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


def head(trace: Trace, tokens: int) -> Trace:
    """The whole requests of a trace that begin within the first tokens."""
    return trace.select_requests(max(1, int((trace.request_offsets[1:] <= tokens).sum())))


def available(trace: Trace) -> list[str]:
    """The engines this version has; says which are missing."""
    engines = []
    for engine in ENGINES:
        try:
            replay_of(trace, "lru", engine)
            engines.append(engine)
        except UserError as error:
            print(f"engine {engine} is missing: {error}\n")
    return engines


def check_equal(trace: Trace, engines: list[str]) -> None:
    """The textbook models and the engines agree before any is timed."""
    short = with_scores(head(trace, TEXTBOOK_TOKENS))
    for policy, textbook in (("lru", textbook_run), ("importance", textbook_smoe_run)):
        expected = textbook(short, short.num_tokens)[1:]
        for engine in engines:
            result = engine_run(short, policy, engine)[1:]
            if result != expected:
                raise SystemExit(f"{policy}, {engine}: hits and end {result}, the textbook model has {expected}")
        print(f"textbook and {', '.join(engines)}, {policy}: {expected[0]} hits and {expected[1]} ns in ", end="")
        print(f"{short.num_tokens} tokens")
    print()


def cases(trace: Trace, engines: list[str], layer_files: list[Path]) -> Iterator[Case]:
    """All timed rows."""
    scored, few = with_scores(trace), TEXTBOOK_TOKENS
    slower, slower_scored, quarter = head(trace, SIMPY_TOKENS), head(scored, SIMPY_TOKENS), head(trace, TOKENS // 4)

    def engine(name: str, policy: str, on: Trace, note: str = "") -> Case:
        return Case(f"engine={name}, {policy}{note}", on.num_tokens, lambda: engine_run(on, policy, name)[0])

    yield Case("textbook SimPy, lru", few, lambda: textbook_run(trace, few)[0])
    yield Case("textbook SimPy, importance", few, lambda: textbook_smoe_run(scored, few)[0])
    yield engine("simpy", "lru", slower)
    yield engine("simpy", "importance", slower_scored)
    if "compiled" in engines:
        yield engine("compiled", "lru", trace)
        yield engine("compiled", "lru", quarter, ", 1/4 of the tokens")
        yield Case(TWO_TIERS, trace.num_tokens, lambda: engine_run(trace, "lru", "compiled", IN_HOST)[0])
        yield engine("compiled", "importance", scored)
    if layer_files:
        yield Case("libcachesim LRU, default", trace.num_tokens, lambda: libcachesim_run(layer_files)[0])
        yield Case(
            "libcachesim LRU, hashpower=10", trace.num_tokens, lambda: libcachesim_run(layer_files, hashpower=10)[0]
        )
    yield Case("LRU miss curve, all capacities", trace.num_tokens, lambda: processor_s(lambda: lru_miss_curve(trace)))


def print_speeds(done: dict[str, Case], trace: Trace) -> None:
    """Rows with time per layer step and per access, and how many times as fast as the textbook model."""
    textbook = done["textbook SimPy, lru"]
    rows = []
    for case in done.values():
        step_ns = case.best / case.tokens / trace.num_layers * 1e9
        row = {"run": case.name, "tokens": case.tokens, "best s": f"{case.best:.4g}"}
        row |= {"median s": f"{statistics.median(case.seconds):.4g}", "ns per layer step": f"{step_ns:,.0f}"}
        row |= {"M accesses/s": f"{trace.top_k / step_ns * 1e3:.3g}", "times textbook lru": ratio(case, textbook)}
        rows.append(row)
    print_table("speed", rows)


def ratio(fast: Case | None, slow: Case | None) -> str:
    """How many times as fast per token."""
    if fast is None or slow is None:
        return "not measured"
    return f"{slow.best / slow.tokens / (fast.best / fast.tokens):.3g}"


def print_ratios(trace: Trace, policies: Sequence[str], repeats: int) -> None:
    """How long a layer step takes under policies of more parts, over that of lru on the same trace in the same rounds.

    What is read is read once for all runs of a sweep that share a block, so that both sums are shown.
    """
    scored, steps = with_scores(trace), trace.num_tokens * trace.num_layers
    best = {name: (float("inf"), float("inf")) for name in ("lru", *policies)}
    for _ in range(repeats):
        for name, before in best.items():
            best[name] = tuple(map(min, before, split_run(scored, name)))  # type: ignore[assignment]
    reading, replaying = best["lru"]
    rows = []
    for name, (read, rest) in best.items():
        row = {"policy": name, "ns to read": f"{read / steps * 1e9:,.0f}", "ns to replay": f"{rest / steps * 1e9:,.0f}"}
        row |= {"replayed, times lru": f"{rest / replaying:.2f}"}
        rows.append(row | {"with reading, times lru": f"{(read + rest) / (reading + replaying):.2f}"})
    print_table("policies of more parts, engine=compiled, per layer step", rows)


def print_targets(done: dict[str, Case], trace: Trace, start: float, compile_s: float) -> None:
    """What is to be reached, and what was."""
    curve = done["LRU miss curve, all capacities"]
    curve_speed = curve.tokens * trace.num_layers * trace.top_k / curve.best / 1e6
    compiled, textbook, four = "engine=compiled, lru", "textbook SimPy, lru", "engine=compiled, importance"
    pairs = (
        ("compiled lru, times textbook", compiled, textbook, ">= 100"),
        ("compiled lru, times libcachesim default", compiled, "libcachesim LRU, default", ">= 2"),
        ("compiled lru, times libcachesim hashpower=10", compiled, "libcachesim LRU, hashpower=10", ""),
        ("compiled importance, times textbook importance", four, "textbook SimPy, importance", ">= 50"),
        ("compiled importance, times textbook lru", four, textbook, ""),
        ("engine=simpy lru, times textbook", "engine=simpy, lru", textbook, ">= 1.5"),
        ("cost per token, whole trace over a quarter", f"{compiled}, 1/4 of the tokens", compiled, "1"),
    )
    measured = [(what, ratio(done.get(fast), done.get(slow)), target) for what, fast, slow, target in pairs]
    measured += [("miss curve, M accesses/s", f"{curve_speed:.3g}", ">= 20")]
    measured += [("start until the first step, s", f"{start:.3g}", "<= 1.5")]
    measured += [("start with nothing compiled, s", f"{compile_s:.3g}", "< 20")]
    names = ("what", "measured", "target")
    print_table("targets", (dict(zip(names, row, strict=True)) for row in measured))


def main(argv: list[str]) -> None:
    """Check that all agree, time them in turn, print both tables."""
    parser = parser_of(__doc__)
    data_option(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ratios", nargs="*", choices=FOUR_PART, help="only these policies' times over lru's; all")
    options = parser.parse_args(argv)
    trace = benchmark_trace(options.data)
    kind = "recorded" if options.data else "drawn"
    print(f"{kind} trace of {trace.num_tokens} tokens; {platform.machine()}, ", end="")
    print(f"Python {platform.python_version()}, numba {version('numba')}, simpy {version('simpy')}\n")
    if options.ratios is not None:
        print_ratios(trace, options.ratios or FOUR_PART, options.repeats)
        return
    engines = available(trace)
    check_equal(trace, engines)
    with tempfile.TemporaryDirectory() as folder:
        files = write_oracle_general(Path(folder), trace) if find_spec("libcachesim") else []
        done = {case.name: case for case in cases(trace, engines, files)}
        for case in done.values():
            case.run()  # compiles
        for name, seconds in in_turn({name: case.run for name, case in done.items()}, options.repeats).items():
            done[name].seconds = seconds
        if files:
            print(f"libcachesim, one access at a time: hit rate {libcachesim_run(files)[1]:.4f}")
            print(f"the engines, step by step: hit rate {lru_miss_curve(trace).hit_rate(8):.4f}\n")
    print_speeds(done, trace)
    print_ratios(trace, FOUR_PART, options.repeats)
    start = min(start_s(engines[-1]) for _ in range(options.repeats))
    with tempfile.TemporaryDirectory() as empty:
        compile_s = start_s(engines[-1], Path(empty))
    print_targets(done, trace, start, compile_s)


if __name__ == "__main__":
    run(main)
