"""The contract that every rule keeps, tried on a policy: what a rule of one's own has to pass to be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.base import Allocation, Part
from policies.needs import SEES_FUTURE
from sim.assembly.replay import Replay, assemble
from sim.assembly.rule_class import check_class, check_ranges, place_of
from sim.assembly.trial import Trial, faults_of
from sim.shipped_rules import own_parts
from traces.errors import UserError
from traces.format.ranks import signed_ids
from traces.format.trace import ScoreTable, Trace

REQUESTS = 4
"""Requests of the trace on which a rule is tried."""
CUTS = (0.2, 0.5, 0.8)
"""After which part of the steps the trace becomes another one."""


def check_policy(replay: Replay, budget_s: float) -> Iterator[str]:
    """Try a policy on the first requests of its replay -> what it has passed, a sentence each.

    Raises: UserError for the first thing that it does not pass, with file and line.
    """
    policy = replay.policy
    parts: tuple[Part | Allocation, ...] = (*policy.parts(), policy.allocation)
    for part in parts:
        check_class(type(part))
        check_ranges(part)
    yield "classes, signatures, ranges of knobs"
    needs = policy.needs()
    yield "needs stated: " + (", ".join(sorted(needs)) or "none")
    count = min(max(REQUESTS, replay.run.batch_size), replay.trace.num_requests)
    stretch = replay.trace.select_requests(count)
    setup = replace(replay.setup, run=replace(replay.run, engine="compiled", timeline=False, what_if=False))
    rest: Any = (setup, replay.geometry, replay.schedule.as_decode, replay.others)
    with faults_of(setup):
        trial = Trial.of(stretch, setup, replay.geometry, replay.schedule.as_decode, replay.others, every=True)
        trial.run(budget_s)
    yield f"plain Python under checks: {trial.steps} steps, {trial.decided} decisions"
    counts = _counts(stretch, *rest)
    yield f"compiles, and runs through {len(counts)} steps"
    tried = np.concatenate([result.counts for result in trial.results])
    if not trial.skipped:
        same = np.array_equal(tried, counts[: len(tried)])
        yield "compiled it decides as in plain Python" if same else _differs(tried, counts)
    if not np.array_equal(counts, _counts(stretch, *rest)):
        raise UserError(f"{_names(replay)}: two runs differ: a decision may depend on state, knobs and memory only")
    yield "two runs agree"
    for part in own_parts(policy).values():
        if getattr(part, "one_layer", False):
            yield (
                f"note: not tested: one_layer of {type(part).__name__}, which says that decisions in a layer depend on "
                "nothing of other layers; `python -m sim quality` believes it"
            )
    seen = SEES_FUTURE & needs.keys()
    if seen:
        yield f"sees the FUTURE, as it says ({', '.join(sorted(seen))}): a bound, no rule for a live system"
        return
    for cut in CUTS:
        _check_blind(replay, stretch, rest, counts, max(1, int(cut * len(counts))))
    yield f"no decision depends on later steps: {len(CUTS)} cuts"


def _names(replay: Replay) -> str:
    return ", ".join(f"{type(part).__name__} ({place_of(type(part))})" for part in replay.policy.parts())


def _counts(trace: Trace, *rest: Any) -> NDArray[np.int64]:
    """[S, counters] of every step of a replay."""
    return np.concatenate([block.counts for block in assemble(trace, *rest).blocks()])


def _differs(tried: NDArray[np.int64], counts: NDArray[np.int64]) -> str:
    step = int(np.nonzero((tried != counts[: len(tried)]).any(axis=1))[0][0])
    return (
        f"note: compiled it decides otherwise than in plain Python from step {step} on: whole numbers have 64 bits "
        "there and scores 32"
    )


def _check_blind(replay: Replay, trace: Trace, rest: Any, counts: NDArray[np.int64], cut: int) -> None:
    """Raises: UserError where what happens up to a step changes if another trace follows after it."""
    later = np.ones(trace.num_tokens, bool)
    step = 0
    for block in assemble(trace, *rest).schedule.blocks():
        for rows in np.split(block.rows, block.bounds[1:-1]):
            if step < cut:  # a rejected draft's row may come again later
                later[rows] = False
            step += 1
    other = _counts(scrambled(trace, later), *rest)
    if not np.array_equal(counts[:cut], other[:cut]):
        first = int(np.nonzero((counts[:cut] != other[:cut]).any(axis=1))[0][0])
        raise UserError(
            f"{_names(replay)}: what happens in step {first} changes where another trace follows after step {cut - 1}: "
            "a rule knows only the past, or states the need 'oracle' or 'future'"
        )


def scrambled(trace: Trace, later: NDArray[np.bool_]) -> Trace:
    """The trace with other routing in some rows: every expert's number counted from the end."""
    chosen = later[:, None, None]

    def mirrored(table: ScoreTable | None) -> ScoreTable | None:
        if table is None:
            return None
        values = np.asarray(table.values)
        if table.ids is None:
            return replace(table, values=np.where(chosen, values[..., ::-1], values))
        ids = np.asarray(table.ids)
        return replace(table, ids=np.where(chosen, trace.num_experts - 1 - ids, ids).astype(ids.dtype))

    ids = np.asarray(trace.topk_ids)
    used = signed_ids(ids, trace.fewer) >= 0
    return replace(
        trace,
        topk_ids=np.where(chosen & used, trace.num_experts - 1 - ids, ids).astype(ids.dtype),
        router_logits=mirrored(trace.router_logits),
        lookahead_before=mirrored(trace.lookahead_before),
        lookahead_after=mirrored(trace.lookahead_after),
    )
