"""Writes how a policy does where nothing was searched: python -m scripts.studies.search.held_out

The policy (`importance_plus`) is replayed beside five rivals (importance, importance without prefetch, hybrimoe_paper,
dali, hybrimoe_true_costs) on twelve machines drawn anew, at batch 1 and 3: on 36 requests that the demo model as it is
shipped writes to new prompts (recorded into OUT at the first call, minutes), and where --traces names a folder with
gpt_oss_20b/ on 18 answers of gpt-oss-20b as a router of the best three of four recorded experts; and beside them what
the same runtime takes with every expert in GPU memory, which no rule can beat. Intervals are 95 %, over blocks of
three requests, widened by what plausible errors of every machine's figures do (six draws).
Where --traces holds big_moe_on_edge/, the lossless split of misses alone is compared on a phone's trace of
Qwen3-30B-A3B, which has no gate scores: LRU with each rule for the CPU.

Writes docs/results/search_held_out.csv, and a line for every policy that has seen the test set to
docs/results/search_test_uses.csv: a policy whose rules or knobs are changed after that is another one, and is told so.
About ten minutes of processor time. SIMULATED, sizes ESTIMATED.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from policies.base import Policy
from scripts.command_line import parser_of, run
from scripts.studies.search.data import Source, gpt_oss, phone, recorded
from scripts.studies.search.places import BATCHES, Place, unseen
from scripts.studies.search.replays import RIVALS, Lead, Rivals, leads, mean_ratio, measure, shipped
from scripts.studies.search.space import ASSIGNMENTS
from scripts.studies.search.verdict import ratio
from sim.assembly.catalogue import load_policy
from sim.paths import ROOT
from sim.shipped_rules import digest_of, rule_sources
from sim.statistics.bootstrap import Estimate

OUT, RESULTS = Path("outputs/search"), ROOT / "docs" / "results"
DRAWN, DRAWN_REQUESTS = 6, 3
TIE = 1.01
BOUND = "all_resident"


def main(argv: list[str]) -> None:
    """Replay the test set, write and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--policy", default="importance_plus", help="a policy of the library (default: importance_plus)"
    )
    parser.add_argument("--traces", type=Path, help="folder that holds gpt_oss_20b/ and big_moe_on_edge/")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the recording (default: {OUT})")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables (default: docs/results)")
    options = parser.parse_args(argv)
    at, rivals = shipped(options.policy), Rivals()
    options.out.mkdir(parents=True, exist_ok=True)
    print(note_use(load_policy(options.policy), options.results / "search_test_uses.csv"))
    sources = [recorded(options.out)]
    if options.traces is None:
        print("gpt-oss-20b and the phone's trace are left out: --traces is not given")
    else:
        sources.append(gpt_oss(options.traces, test=True))
    rows = []
    for source in sources:
        found = leads(at, source, unseen(), rivals)
        bounds = leads(shipped(BOUND), source, unseen(), rivals)
        drawn = [leads(at, source.first(DRAWN_REQUESTS), unseen(), rivals, draw) for draw in range(DRAWN)]
        rows += [row_of(source.name, *both) for both in zip(found, bounds, strict=True)]
        for batch in BATCHES:
            print(summary(source.name, batch, found, drawn))
            bound = mean_ratio([lead for lead in bounds if lead.place.batch == batch])
            print(f"  with every expert in GPU memory {bound:.3f}")
    table = pd.DataFrame(rows)
    table.to_csv(options.results / "search_held_out.csv", index=False, float_format="%.4f")
    print(table.to_string(index=False, float_format=lambda number: f"{number:.3f}"))
    if options.traces is not None:
        print(splits(phone(options.traces)).to_string(index=False, float_format=lambda number: f"{number:.3f}"))


def note_use(policy: Policy, path: Path) -> str:
    """Write down that a policy sees the test set, once for each -> a sentence."""
    sources = rule_sources()
    rules = [digest_of(sources[type(part).__module__]) for part in policy.parts() if type(part).__module__ in sources]
    digest = hashlib.sha256(repr((policy.parts(), rules)).encode()).hexdigest()[:16]
    known = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["use", "policy", "digest"])
    if digest in set(known["digest"]):
        return f"the test set has been used for {policy.name} as it is; so far by {len(known)} in all"
    row = pd.DataFrame([{"use": len(known) + 1, "policy": policy.name, "digest": digest}])
    pd.concat([known, row], ignore_index=True).to_csv(path, index=False)
    return f"use {len(known) + 1} of the test set: {policy.name}"


def row_of(source: str, lead: Lead, bound: Lead) -> dict[str, object]:
    """A line of the table."""
    place = lead.place
    return {
        "trace": source, "hardware": place.hardware, "fraction": place.fraction, "host_ms": place.host_s * 1e3,
        "cpu_ratio": place.cpu_ratio, "batch": place.batch, "tpot_ms": lead.ours.tpot_ns / 1e6, "best_rival": lead.best,
        "rival_tpot_ms": lead.theirs.tpot_ns / 1e6, "ratio": lead.ratio, "all_resident_ratio": bound.ratio,
        "lost": lead.ours.lost,
        "importance_lost": lead.allowed, "label": "SIMULATED",
    }  # fmt: skip


def summary(source: str, batch: int, found: Sequence[Lead], drawn: Sequence[Sequence[Lead]]) -> str:
    """One batch size of a trace: the mean with its interval, the worst place, and whether the bound on loss held."""
    chosen = [lead for lead in found if lead.place.batch == batch]
    mean = with_machines(ratio(chosen), [[one for one in many if one.place.batch == batch] for many in drawn])
    worst = max(chosen, key=lambda lead: lead.ratio)
    slower = sum(lead.ratio > TIE for lead in chosen)
    over = sum(lead.loss_ratio > 1 for lead in chosen)
    return (
        f"{source}, batch {batch}: {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}] of the fastest rival's time, "
        f"geometric mean over {len(chosen)} places; slower by more than 1 % at {slower}; at worst {worst.ratio:.3f} "
        f"({worst.place.label}, {worst.best}); loses more than {RIVALS[0]} at {over}"
    )


def with_machines(mean: Estimate, drawn: Sequence[Sequence[Lead]]) -> Estimate:
    """The interval widened by the spread of the mean over plausible machines."""
    spread = float(np.std([np.log(mean_ratio(many)) for many in drawn], ddof=1))
    return mean.widened(mean.value * spread, mean.value * spread)


def splits(source: Source) -> pd.DataFrame:
    """LRU with each rule for the CPU: the geometric mean over places of its time over the best one's; lossless."""
    places: list[Place] = [place for place in unseen() if place.batch == 1]
    times = {
        name: np.array(
            [measure(replace(load_policy("lru"), assignment=rule()), source, place).tpot_ns for place in places]
        )
        for name, rule in ASSIGNMENTS.items()
    }
    best = np.min([*times.values()], axis=0)
    rows = [{"split": name, "over_best": float(np.exp(np.mean(np.log(many / best))))} for name, many in times.items()]
    return pd.DataFrame(rows).sort_values("over_best").assign(trace=source.name, label="SIMULATED")


if __name__ == "__main__":
    run(main)
