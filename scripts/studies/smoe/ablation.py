"""Prints SMoE's ablation on a trace beside the paper's figures: python -m scripts.studies.smoe.ablation [--quick]

All 16 combinations of its four parts on LRU offloading (score-aware eviction, router substitution, prefetch, CPU
balance), the chain in the paper's order, each part left out, and the whole against the baselines the paper used, on its
three set-ups, at batch 1 and 3. The lead is taken over the best lossless policy of the library, paper form against
paper forms and released code against released code. Brackets are 95 % intervals of a bootstrap over requests (lockstep
batches), with the same ones drawn for both sides; host cost (0, .1, .3, 1, 3 ms per layer) and CPU speed (an expert in
1/3, .73, 1.08 copies) are varied beside it. Nothing is fitted to the paper. All results are SIMULATED, all sizes and
machines ESTIMATED.

  python -m scripts.studies.smoe.ablation                    the embedded trace, one to three minutes on one core
  python -m scripts.studies.smoe.ablation --quick            fewer requests and machines, batch 1 only: half a minute
  python -m scripts.studies.smoe.ablation --trace my.safetensors --requests 40 --out results
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.command_line import parser_of, run
from scripts.studies.smoe.claims import (
    LRU,
    SMOE,
    Finding,
    baselines,
    best_of,
    examine,
    fixed,
    lead,
    published_claims,
    write,
)
from scripts.studies.smoe.replays import (
    BASELINES,
    CHAIN,
    HOSTS_S,
    IDLE_PREFETCH,
    MACHINES,
    NOMINAL,
    SETUPS,
    SIDES,
    THIRD,
    TWO_CORES,
    Bench,
    Contender,
    Machine,
    Sums,
    change,
    change_interval,
    split,
    value,
)
from scripts.studies.smoe.rivals import rivals

QUICK_REQUESTS = 6
QUICK_MACHINES = (Machine(HOSTS_S[0], TWO_CORES), NOMINAL, Machine(HOSTS_S[-1], THIRD))
MEMBERS = [Contender(CHAIN[:steps]) for steps in range(len(CHAIN) + 1)]
Pairs = Sequence[tuple[Sums, Sums]]


def main(argv: list[str]) -> None:
    """Replay everything and print every table."""
    parser = parser_of(__doc__)
    parser.add_argument("--trace", type=Path, help="trace with gate scores and lookahead (default: the embedded one)")
    parser.add_argument("--requests", type=int, help="replay the first N requests (default: all that are not held out)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests, batch 1, three machines")
    parser.add_argument("--out", type=Path, help="folder for smoe_replays.csv, smoe_claims.json and smoe_claims.md")
    options = parser.parse_args(argv)
    batches, machines = ((1,), QUICK_MACHINES) if options.quick else ((1, 3), MACHINES)
    requests = QUICK_REQUESTS if options.quick and options.requests is None else options.requests
    start = time.perf_counter()
    bench = Bench(*split(options.trace, requests, 2 * max(batches)))
    print_head(bench, batches)
    for batch in batches:
        print_combinations(bench, batch)
        print_left_out(bench, batch)
        print_contenders(bench, batch)
        print_parts_of_time(bench, batch)
        print_older_capacity(bench, batch)
        print_chain_by_host(bench, batch, machines)
    findings = [examine(bench, claim, machines) for claim in published_claims(batches)]
    print_machines(bench, batches, machines)
    print_prefetch(bench, batches, sorted({machine.host_s for machine in machines}))
    print_findings(findings)
    if options.out is not None:
        write(options.out, bench, findings)
    print(f"\n{bench.replays} replays in {time.perf_counter() - start:.0f} s; SIMULATED, sizes ESTIMATED")


def shown(pairs: Pairs, measure: str = "TPOT") -> str:
    """Mean relative change with its interval, in percent."""
    low, high = change_interval(pairs, measure)
    return f"{change(pairs, measure):+7.1%} [{low:+.1%}, {high:+.1%}]"


def print_head(bench: Bench, batches: tuple[int, ...]) -> None:
    """What is replayed, and what the comparison with the paper lacks."""
    trace, others, geometry = bench.trace, bench.others, bench.trace.geometry
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


def print_combinations(bench: Bench, batch: int) -> None:
    """All 16 combinations of the four parts."""
    print(f"\nall combinations, batch {batch}: TPOT in ms, cache ratio in decode, gate mass not executed as routed")
    names = "".join(f"{s.name:>7}" for s in SETUPS), "".join(f"{s.name:>6}" for s in SETUPS)
    print(f"{'parts on LRU':<36}{names[0]}   {'TPOT against LRU':<26}{names[1]}{'lost':>6}")
    for count in range(len(CHAIN) + 1):
        for parts in itertools.combinations(CHAIN, count):
            pairs = bench.pairs(LRU, Contender(parts), batch)
            tpot = "".join(f"{value(new, 'TPOT') / 1e6:>7.1f}" for _, new in pairs)
            ratios = "".join(f"{value(new, 'cache ratio'):>6.0%}" for _, new in pairs)
            lost = sum(new.lost_gate_mass for _, new in pairs) / len(pairs)
            print(f"{'+'.join(parts) or 'none':<36}{tpot}   {shown(pairs):<26}{ratios}{lost:>6.0%}")


def print_left_out(bench: Bench, batch: int) -> None:
    """SMoE without one part, against all of it."""
    print(f"\none part left out, batch {batch}: change against the whole")
    rests = {part: Contender(tuple(other for other in CHAIN if other != part)) for part in CHAIN}
    print_changes((f"without {part:<10}", bench.pairs(SMOE, rest, batch)) for part, rest in rests.items())


def print_changes(rows: Iterable[tuple[str, Pairs]]) -> None:
    """A line for each change: of TPOT and of the cache ratio."""
    for name, pairs in rows:
        print(f"  {name} TPOT {shown(pairs):<28} cache ratio {shown(pairs, 'cache ratio')}")


def print_contenders(bench: Bench, batch: int) -> None:
    """SMoE against every baseline: each system's own supply of misses, then the same for both sides."""
    for side in ("own", *SIDES):
        rivals = [Contender(side=side), *(c for c in baselines(SETUPS[0], BASELINES, side))]
        smoe = Contender(CHAIN, side=side)
        print(f"\nSMoE against baselines, batch {batch}, supply of misses: {side}")
        print(f"{'':<34}{'S1':>7}{'S2':>7}{'S3':>7} ms   cache ratio, mean   SMoE's TPOT against it")
        for rival in (smoe, *rivals):
            pairs = bench.pairs(rival, smoe, batch)
            tpot = "".join(f"{value(old, 'TPOT') / 1e6:>7.1f}" for old, _ in pairs)
            ratio = sum(value(old, "cache ratio") for old, _ in pairs) / len(pairs)
            name = "SMoE" if rival is smoe else rival.label.removesuffix(f", {side}")
            gain = "" if rival is smoe else shown(pairs)
            print(f"{name:<34}{tpot}      {ratio:>8.0%}            {gain}".rstrip())


def print_parts_of_time(bench: Bench, batch: int) -> None:
    """Where a token's time goes along the chain: what no rule can save bounds every gain."""
    print(f"\nshare of TPOT along the chain, batch {batch}, mean over set-ups")
    print(f"{'':<34}{'link':>7}{'CPU':>7}{'host':>7}{'launch, sync':>14}{'GPU':>7}")
    for steps in range(len(CHAIN) + 1):
        runs = [bench.run(setup, Contender(CHAIN[:steps]), batch) for setup in SETUPS]
        groups = (("link",), ("cpu",), ("host",), ("launch", "sync"), ("attention", "expert"))
        shares = [sum(run.share(*group) for run in runs) / len(runs) for group in groups]
        link, cpu, host, launch, gpu = (f"{share:.0%}" for share in shares)
        print(f"{'+'.join(['lru', *CHAIN[:steps]]):<34}{link:>7}{cpu:>7}{host:>7}{launch:>14}{gpu:>7}")


def print_older_capacity(bench: Bench, batch: int) -> None:
    """The chain at the capacities that the older code fixed."""
    print(f"\nchain at the older code's capacities, batch {batch}: each step against the one before")
    steps = zip(CHAIN, itertools.pairwise(MEMBERS), strict=True)
    print_changes((f"+{part:<10}", bench.pairs(*sides, batch, older=True)) for part, sides in steps)


def print_chain_by_host(bench: Bench, batch: int, machines: Sequence[Machine]) -> None:
    """The chain at both capacities and every host cost, since neither is known of the paper's figures."""
    print(f"\nchain by capacity and host cost, batch {batch}: TPOT, each step against the one before")
    print(f"{'capacity':<10}{'host ms':>8}" + "".join(f"{f'+{part}':>11}" for part in CHAIN) + f"{'all four':>11}")
    for older in (False, True):
        for host_s in sorted({machine.host_s for machine in machines}):
            sides = [*itertools.pairwise(MEMBERS), (LRU, SMOE)]
            pairs = (bench.pairs(old, new, batch, Machine(host_s=host_s), older) for old, new in sides)
            cells = "".join(f"{change(pair, 'TPOT'):>+11.1%}" for pair in pairs)
            print(f"{'older' if older else 'automatic':<10}{host_s * 1e3:>8g}{cells}")


def print_machines(bench: Bench, batches: Sequence[int], machines: Sequence[Machine]) -> None:
    """What host cost and CPU speed do to the whole effect and to the lead over the best lossless policy."""
    print("\nSMoE under other host costs and CPU speeds: TPOT against LRU, and against the best lossless policy")
    print(f"{'host ms':>8}{'CPU/copy':>10}" + "".join(f"{f'batch {b}: LRU':>16}{'best':>8}" for b in batches))
    for machine in machines:
        line = f"{machine.host_s * 1e3:>8g}{machine.cpu_ratio:>10.2f}"
        for batch in batches:
            line += f"{lead(bench, fixed(LRU), batch, machine):>16.1%}"
            line += f"{lead(bench, best_of(rivals()), batch, machine):>8.1%}"
        print(line)


def print_prefetch(bench: Bench, batches: Sequence[int], hosts_s: Sequence[float]) -> None:
    """What fetching early does to SMoE, as it stands and held back in three ways."""
    without = Contender(tuple(part for part in CHAIN if part != "prefetch"))
    idle = Contender(tuple(IDLE_PREFETCH if part == "prefetch" else part for part in CHAIN))
    forms = {
        "as the paper has it": (SMOE, ()),
        "on an idle link only": (idle, ()),
        "late copies to the CPU": (SMOE, (("late_copy_to_cpu", True),)),
        "late copies stopped": (SMOE, (("cancel_late_copy", True),)),
    }
    print("\nSMoE's prefetch: TPOT against SMoE without it, by host ms per layer (CPU expert in .73 copies)")
    print(f"{'':<34}" + "".join(f"{f'b{b} {host * 1e3:g}':>9}" for b in batches for host in hosts_s))
    for name, (form, figures) in forms.items():
        line = f"{name:<34}"
        for batch, host_s in itertools.product(batches, hosts_s):
            machine = Machine(host_s, figures=figures)
            pairs = [
                (bench.run(setup, without, batch, Machine(host_s)), bench.run(setup, form, batch, machine))
                for setup in SETUPS
            ]
            line += f"{change(pairs, 'TPOT'):>+9.1%}"
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
    run(main)
