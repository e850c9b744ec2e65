"""Takes SMoE apart on a trace and sets the paper's figures beside ours.

Run: python -m scripts.studies.smoe.ablation [--quick]

All 16 combinations of its four parts on LRU offloading (score-aware eviction, router substitution, prefetch, CPU
balance), the chain in the paper's order, each part left out, and the whole against the baselines the paper used, on its
three set-ups, at batch 1 and 3. Brackets are 95 % intervals of a bootstrap over requests (lockstep batches), with the
same ones drawn for both sides; host cost (0, 1, 3 ms per layer) and CPU speed (an expert in 1/3, 1, 1.2 copies) are
varied beside it. Nothing is fitted to the paper. All results are SIMULATED, all sizes and machines ESTIMATED.

  python -m scripts.studies.smoe.ablation                    the embedded trace, one to three minutes on one core
  python -m scripts.studies.smoe.ablation --quick            fewer requests and machines, batch 1 only: half a minute
  python -m scripts.studies.smoe.ablation --trace my.safetensors --requests 40 --out results
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.studies.smoe.claims import LRU, SMOE, Finding, baselines, best_of, examine, published_claims, write
from scripts.studies.smoe.replays import (
    BASELINES,
    CHAIN,
    CODE_BASELINES,
    MACHINES,
    NOMINAL,
    SETUPS,
    SIDES,
    Bench,
    Contender,
    Machine,
    Sums,
    Vector,
    change,
    draw_blocks,
    interval,
    value,
)
from traces.embedded import embedded_trace_path
from traces.errors import UserError
from traces.format.files import read_trace
from traces.format.trace import Trace

QUICK_REQUESTS = 6
QUICK_MACHINES = (Machine(0.0, 1 / 3), NOMINAL, Machine(0.0, 1.2))
DRAWS = 2000


@dataclass(frozen=True)
class Study:
    """What one call of the script examines."""

    bench: Bench
    batches: tuple[int, ...]
    machines: tuple[Machine, ...]

    def draws(self, sums: Sums) -> Vector:
        """The same draws of blocks for everything with as many blocks."""
        return draw_blocks(sums.tokens.size, DRAWS)

    def pairs(self, old: Contender, new: Contender, batch: int, older: bool = False) -> list[tuple[Sums, Sums]]:
        """Both contenders in every set-up, on the nominal machine."""
        sides = ((self.bench.run(s, c, batch, NOMINAL, older) for c in (old, new)) for s in SETUPS)
        return [(first, second) for first, second in sides]

    def written(self, pairs: Sequence[tuple[Sums, Sums]], measure: str = "TPOT") -> str:
        """Mean relative change with its interval, in percent."""
        low, high = interval(change(pairs, measure, self.draws(pairs[0][0])))
        return f"{change(pairs, measure)[0]:+7.1%} [{low:+.1%}, {high:+.1%}]"


def main(argv: list[str]) -> int:
    """Print the tables. Raises SystemExit for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="trace with gate scores and lookahead (default: the embedded one)")
    parser.add_argument("--requests", type=int, help="replay the first N requests (default: all that are not held out)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests, batch 1, three machines")
    parser.add_argument("--out", type=Path, help="folder for replays.csv and claims.json")
    options = parser.parse_args(argv)
    batches, machines = ((1,), QUICK_MACHINES) if options.quick else ((1, 3), MACHINES)
    requests = QUICK_REQUESTS if options.quick and options.requests is None else options.requests
    try:
        examine_all(*split(options.trace, requests, 2 * max(batches)), batches, machines, options.out)
    except UserError as error:
        parser.error(str(error))
    return 0


def examine_all(
    trace: Trace, others: Trace, batches: tuple[int, ...], machines: tuple[Machine, ...], out: Path | None
) -> None:
    """Replay everything and print every table."""
    start = time.perf_counter()
    study = Study(Bench(trace, others), batches, machines)
    print_head(trace, others, batches)
    for batch in batches:
        print_combinations(study, batch)
        print_left_out(study, batch)
        print_contenders(study, batch)
        print_parts_of_time(study, batch)
        print_older_capacity(study, batch)
        print_chain_by_host(study, batch)
    findings = [examine(study.bench, claim, machines, study.draws) for claim in published_claims(batches)]
    print_machines(study)
    print_findings(findings)
    if out is not None:
        write(out, study.bench, findings)
    print(f"\n{study.bench.replays} replays in {time.perf_counter() - start:.0f} s; SIMULATED, sizes ESTIMATED")


def split(path: Path | None, requests: int | None, least: int) -> tuple[Trace, Trace]:
    """(requests to replay, the last quarter to learn from). Raises: UserError for fewer than ``least`` requests."""
    trace = read_trace(path or embedded_trace_path("demo"), check_rows=path is not None)
    held = -(-trace.num_requests // 4)
    left = trace.num_requests - held
    count = left if requests is None else requests
    if not least <= count <= left:
        raise UserError(f"--requests={count}: must be between {least} and {left}, {held} are held out to learn from")
    return trace.select_requests(count), trace.select_requests(held, left)


def print_head(trace: Trace, others: Trace, batches: tuple[int, ...]) -> None:
    """What is replayed, and what the comparison with the paper lacks."""
    geometry = trace.geometry
    shape = f"{geometry.num_layers} layers, top {geometry.top_k} of {geometry.num_experts} experts"
    print(f"SIMULATED: routing of {geometry.model}, {shape}, {trace.num_requests} requests", end="")
    print(f" ({others.num_requests} others held out to learn from)")
    for s in SETUPS:
        slots = [int(share * geometry.num_experts + 1e-9) for share in (s.fraction, s.older_fraction)]
        print(
            f"{s.name}: {s.hardware}, sizes of {s.model} (ESTIMATED), alpha {s.alpha}, {slots[0]} slots per layer",
            end="",
        )
        print(f" ({s.fraction:.0%}; older code {slots[1]}, {s.older_fraction:.0%})")
    blocks = ", ".join(f"{-(-trace.num_requests // batch)} at batch {batch}" for batch in batches)
    print(f"Intervals rest on few blocks: {blocks}.")
    print("S3's model routes top 8 of 64; the embedded trace has top 6: S3 here is its sizes under top-6 routing.")
    print("TPOT is the time per decode token of all layers of the trace; changes are means over S1, S2, S3.")


def print_combinations(study: Study, batch: int) -> None:
    """All 16 combinations of the four parts."""
    print(f"\nall combinations, batch {batch}: TPOT in ms, cache ratio in decode, gate mass not executed as routed")
    names = "".join(f"{s.name:>7}" for s in SETUPS), "".join(f"{s.name:>6}" for s in SETUPS)
    print(f"{'parts on LRU':<36}{names[0]}   {'TPOT against LRU':<26}{names[1]}{'lost':>6}")
    for count in range(len(CHAIN) + 1):
        for parts in itertools.combinations(CHAIN, count):
            pairs = study.pairs(LRU, Contender(parts), batch)
            tpot = "".join(f"{value(new, 'TPOT')[0] / 1e6:>7.1f}" for _, new in pairs)
            ratios = "".join(f"{value(new, 'cache ratio')[0]:>6.0%}" for _, new in pairs)
            lost = sum(new.lost_gate_mass for _, new in pairs) / len(pairs)
            print(f"{'+'.join(parts) or 'none':<36}{tpot}   {study.written(pairs):<26}{ratios}{lost:>6.0%}")


def print_left_out(study: Study, batch: int) -> None:
    """SMoE without one part, against all of it."""
    print(f"\none part left out, batch {batch}: change against the whole")
    for part in CHAIN:
        rest = Contender(tuple(other for other in CHAIN if other != part))
        pairs = study.pairs(SMOE, rest, batch)
        print(f"  without {part:<10} TPOT {study.written(pairs):<28} cache ratio {study.written(pairs, 'cache ratio')}")


def print_contenders(study: Study, batch: int) -> None:
    """SMoE against every baseline: each system's own supply of misses, then the same for both sides."""
    for side in ("own", *SIDES):
        rivals = [Contender(side=side), *(c for c in baselines(SETUPS[0], BASELINES, side))]
        smoe = Contender(CHAIN, side=side)
        print(f"\nSMoE against baselines, batch {batch}, supply of misses: {side}")
        print(f"{'':<34}{'S1':>7}{'S2':>7}{'S3':>7} ms   cache ratio, mean   SMoE's TPOT against it")
        for rival in (smoe, *rivals):
            pairs = study.pairs(rival, smoe, batch)
            tpot = "".join(f"{value(old, 'TPOT')[0] / 1e6:>7.1f}" for old, _ in pairs)
            ratio = sum(float(value(old, "cache ratio")[0]) for old, _ in pairs) / len(pairs)
            name = "SMoE" if rival is smoe else rival.label.removesuffix(f", {side}")
            gain = "" if rival is smoe else study.written(pairs)
            print(f"{name:<34}{tpot}      {ratio:>8.0%}            {gain}".rstrip())


def print_parts_of_time(study: Study, batch: int) -> None:
    """Where a token's time goes along the chain: what no rule can save bounds every gain."""
    print(f"\nshare of TPOT along the chain, batch {batch}, mean over set-ups")
    print(f"{'':<34}{'link':>7}{'CPU':>7}{'host':>7}{'launch, sync':>14}{'GPU':>7}")
    for steps in range(len(CHAIN) + 1):
        runs = [study.bench.run(setup, Contender(CHAIN[:steps]), batch) for setup in SETUPS]
        groups = (("link",), ("cpu",), ("host",), ("launch", "sync"), ("attention", "expert"))
        shares = [sum(run.share(*group) for run in runs) / len(runs) for group in groups]
        link, cpu, host, launch, gpu = (f"{share:.0%}" for share in shares)
        print(f"{'+'.join(['lru', *CHAIN[:steps]]):<34}{link:>7}{cpu:>7}{host:>7}{launch:>14}{gpu:>7}")


def print_older_capacity(study: Study, batch: int) -> None:
    """The chain at the capacities that the older code fixed."""
    print(f"\nchain at the older code's capacities, batch {batch}: each step against the one before")
    for step, part in enumerate(CHAIN):
        sides = Contender(CHAIN[:step]), Contender(CHAIN[: step + 1])
        pairs = study.pairs(*sides, batch, older=True)
        print(f"  +{part:<10} TPOT {study.written(pairs):<28} cache ratio {study.written(pairs, 'cache ratio')}")


def print_chain_by_host(study: Study, batch: int) -> None:
    """The chain at both capacities and every host cost, since neither is known of the paper's figures."""
    print(f"\nchain by capacity and host cost, batch {batch}: TPOT, each step against the one before")
    print(f"{'capacity':<10}{'host ms':>8}" + "".join(f"{f'+{part}':>11}" for part in CHAIN) + f"{'all four':>11}")
    members = [Contender(CHAIN[:steps]) for steps in range(len(CHAIN) + 1)]
    for older in (False, True):
        for host_s in sorted({machine.host_s for machine in study.machines}):
            sides = [*itertools.pairwise(members), (LRU, SMOE)]
            machine = Machine(host_s=host_s)
            runs = [[tuple(study.bench.run(s, c, batch, machine, older) for c in two) for s in SETUPS] for two in sides]
            cells = "".join(f"{change(pairs, 'TPOT')[0]:>+11.1%}" for pairs in runs)  # type: ignore[arg-type]
            print(f"{'older' if older else 'automatic':<10}{host_s * 1e3:>8g}{cells}")


def print_machines(study: Study) -> None:
    """What host cost and CPU speed do to the whole effect and to the lead over the best baseline."""
    print("\nSMoE under other host costs and CPU speeds: TPOT against LRU, and against the best baseline (own supply)")
    print(f"{'host ms':>8}{'CPU/copy':>10}" + "".join(f"{f'batch {b}: LRU':>16}{'best':>8}" for b in study.batches))
    for machine in study.machines:
        line = f"{machine.host_s * 1e3:>8g}{machine.cpu_ratio:>10.2f}"
        for batch in study.batches:
            for width, chosen in ((16, best_of((), with_lru=True)), (8, best_of(CODE_BASELINES))):
                pairs = [
                    tuple(study.bench.run(s, c, batch, machine) for c in (chosen(study.bench, s, batch, machine), SMOE))
                    for s in SETUPS
                ]
                line += f"{change(pairs, 'TPOT')[0]:>{width}.1%}"  # type: ignore[arg-type]
        print(line)


def print_findings(findings: Sequence[Finding]) -> None:
    """The paper's figures beside ours."""
    print("\npublished beside ours; other machines: least and most over host costs and CPU speeds")
    head = f"{'claim':<26}{'batch':>5} {'measure':<12}{'paper':>5}{'ours':>7} {'95 % interval':<17}"
    print(f"{head}{'older capacities':<25}{'other machines':<15}verdict")
    for f in findings:
        other, (older, *bounds) = f.machines.values(), f.older
        line = f"{f.claim.text:<26}{f.claim.batch:>5} {f.claim.measure:<12}{f.claim.published:>+5.0%}{f.ours:>+7.1%} "
        line += f"{f'[{f.low:+.1%}, {f.high:+.1%}]':<17}{f'{older:+.1%} [{bounds[0]:+.1%}, {bounds[1]:+.1%}]':<25}"
        print(f"{line}{f'{min(other):+.0%} to {max(other):+.0%}':<15}{f.verdict}")
        if f.verdict != "agrees":
            print(f"    {f.reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
