"""Writes candidate policies and what the best are worth on unseen requests: python -m scripts.studies.search.run

Draws compositions of parts and their knobs (scripts/studies/search/space.py) with Optuna, replays them over a map of
machines on requests 1 to 12 of the embedded trace with successive halving, and keeps every candidate in
OUT/log.jsonl: a search that was killed goes on where it was. A candidate's score is the geometric mean over the places
of its time per token over that of the fastest of five rivals (importance, importance without prefetch, hybrimoe_paper,
dali, hybrimoe_true_costs); gate mass that it loses beyond what `importance` does costs more than it could gain.

The best are then replayed on requests 13 to 24, and on gpt-oss-20b as a router of the best three of the four experts
that were recorded where --traces names a folder with gpt_oss_20b/. Printed, and written to OUT/verdict.csv: ratios with
95 % intervals over requests, which candidates have learned the training requests, and whether the best one beats
`importance_plus` as it is shipped, or that no difference was found. The test set is left alone: see
scripts.studies.search.held_out. SIMULATED, sizes ESTIMATED. Needs Optuna (pip install -e ".[sweep]").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from scripts.command_line import parser_of, run
from scripts.studies.search.data import TRAIN, VALIDATION, Source, embedded, gpt_oss
from scripts.studies.search.places import Place, searched
from scripts.studies.search.replays import Lead, Rivals, leads
from scripts.studies.search.search import RUNGS, Entry, Task, search
from scripts.studies.search.space import SHIPPED, Knobs, policy_at
from scripts.studies.search.verdict import gap, paired, ratio, sentence
from traces.errors import UserError

OUT, CANDIDATES, BEST = Path("outputs/search"), 1000, 8


def main(argv: list[str]) -> None:
    """Search, judge, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of log and verdict (default: {OUT})")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help=f"default: {CANDIDATES}")
    parser.add_argument("--best", type=int, default=BEST, help=f"how many are validated (default: {BEST})")
    parser.add_argument("--seed", type=int, default=0, help="of Optuna's draws (default: 0)")
    parser.add_argument("--traces", type=Path, help="folder that holds gpt_oss_20b/")
    options = parser.parse_args(argv)
    for name in ("candidates", "best"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}={getattr(options, name)}: must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    task = Task(embedded(TRAIN), searched())
    others = [embedded(VALIDATION)]
    if options.traces is None:
        print("gpt-oss-20b is left out of the validation: --traces is not given")
    else:
        others.append(gpt_oss(options.traces, test=False))
    done = search(task, options.out / "log.jsonl", options.candidates, options.seed, print)
    table = judge(best_of(done, options.best), task, others)
    table.to_csv(options.out / "verdict.csv", index=False, float_format="%.4f")
    print(f"\nTime over the fastest rival's, {len(done)} candidates, {RUNGS[-1][1]} places; SIMULATED")
    print(table.to_string(index=False, float_format=lambda number: f"{number:.3f}"))
    for line in conclusions(table, done, task, others):
        print(line)


def best_of(done: Sequence[Entry], count: int) -> list[Entry]:
    """The best candidates that were replayed in full, each composition of parts once, then others."""
    complete = sorted((one for one in done if one.complete), key=lambda one: one.score)
    seen: set[tuple[str, ...]] = set()
    firsts: list[Entry] = []
    others: list[Entry] = []
    for one in complete:
        parts = tuple(str(one.knobs[part]) for part in ("eviction", "prefetch", "substitution", "assignment"))
        (others if parts in seen else firsts).append(one)
        seen.add(parts)
    return [*firsts, *others][:count]


def judge(candidates: Sequence[Entry], task: Task, others: Sequence[Source]) -> pd.DataFrame:
    """A row per candidate and source that it is validated on, `importance_plus` as it is shipped first."""
    rows = []
    for name, knobs in [("shipped", SHIPPED), *((str(one.number), one.knobs) for one in candidates)]:
        leads_here = found_by(knobs, task.source, task.places, task.rivals)
        trained = ratio(leads_here)
        for source in others:
            leads_there = found_by(knobs, source, task.places, task.rivals)
            valid = ratio(leads_there)
            off = gap(leads_here, leads_there)
            rows.append({
                "candidate": name, **{part: knobs[part] for part in ("eviction", "prefetch", "substitution")},
                "assignment": knobs["assignment"], "validated_on": source.name, "training": trained.value,
                "validation": valid.value, "low": valid.low, "high": valid.high, "gap": off.value, "gap_p": off.p,
                "learned_by_heart": off.overfit and source.name == task.source.name,
                "lost_over_reference": max(lead.loss_ratio for lead in leads_there),
            })  # fmt: skip
    return pd.DataFrame(rows)


def found_by(knobs: Knobs, source: Source, places: Sequence[Place], rivals: Rivals) -> list[Lead]:
    """A candidate at the places of the last rung."""
    return leads(policy_at(knobs), source, places[: RUNGS[-1][1]], rivals)


def conclusions(table: pd.DataFrame, done: Sequence[Entry], task: Task, others: Sequence[Source]) -> list[str]:
    """Which candidates have learned the training requests, and whether the best of the others beats what is shipped."""
    flagged = sorted(set(table.loc[table["learned_by_heart"], "candidate"]))
    lines = [f"learned the training requests: {', '.join(flagged) or 'none'}"]
    own = table[(table["validated_on"] == others[0].name) & ~table["candidate"].isin([*flagged, "shipped"])]
    if own.empty:
        return [*lines, "no candidate is left to compare with importance_plus as it is shipped"]
    number = int(own.sort_values("validation")["candidate"].iloc[0])
    knobs = next(one.knobs for one in done if one.number == number)
    for source in others:
        pair = [found_by(one, source, task.places, task.rivals) for one in (knobs, SHIPPED)]
        lines.append(
            sentence(paired(*pair), f"on {source.name}, candidate {number} against importance_plus as shipped")
        )
    return [
        *lines,
        "the best of several is chosen on validation: only an interval that excludes 0 by far means anything",
    ]


if __name__ == "__main__":
    run(main)
