"""Whether a policy of one's own may be ranked: what would make its score say something else than how good it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from omegaconf import DictConfig

from policies.needs import Need
from policies.prediction.none import NoPrediction
from policies.prefetch.none import NoPrefetch
from sim.assembly.build import build
from sim.assembly.replay import DeviceSetup, assemble
from sim.bench.suite import CELLS
from sim.run.contract import check_policy
from sim.shipped_rules import own_parts
from traces.errors import UserError
from traces.format.trace import ScoreTable, Trace

TRIED_IN = CELLS[1]
"""One machine, a quarter of the experts, batch size 1."""
BUDGET_S = 1.0
SLOWER = 1.02
"""Time with the experts renamed over that with them as they are, above which a rule knows them. Of shipped rules none
comes to more than 1.001: numbers only tell equals apart."""


def check_fair(policy: DictConfig, is_end: bool = False) -> None:
    """Try a policy, composed, before it is scored; one of shipped rules alone needs no trial of them.

    ``is_end``: it is one of the suite's own ends of the scale.

    Raises: UserError where it holds more than the budget, breaks the contract of `check-policy`, or is slower once the
    experts have other numbers, which are names: what it knows of them it has from the suite, and not from `fit`.
    """
    replay = build(TRIED_IN.config(policy))
    if not is_end and replay.policy.residency == "all":
        raise UserError("policy.residency=all: every expert is more than the suite's budgets: must be cache or none")
    if not own_parts(replay.policy):
        return
    for _ in check_policy(replay, BUDGET_S):
        pass
    setup = without_forecasts(replay.setup)
    times = [
        decode_ns(trace, setup, replay.geometry, others)
        for trace, others in (
            (replay.trace, replay.others),
            (renamed(replay.trace), None if replay.others is None else renamed(replay.others)),
        )
    ]
    if times[1] > SLOWER * times[0]:
        raise UserError(
            f"policy {replay.policy.name}: decodes {times[1] / times[0] - 1:.1%} slower where the suite's experts have "
            "other numbers, so it knows them beforehand: what a rule learns comes from other requests, by the need fit"
        )


def without_forecasts(setup: DeviceSetup) -> DeviceSetup:
    """The set-up without a prediction that was trained on experts as they are numbered, as `promoe` ships one."""
    if Need.FORECAST not in setup.policy.needs():
        return setup
    return replace(setup, policy=replace(setup.policy, prediction=NoPrediction(), prefetch=NoPrefetch()))


def decode_ns(trace: Trace, setup: DeviceSetup, geometry: Any, others: Trace | None) -> int:
    """Time of all steps of a replay."""
    blocks = assemble(trace, setup, geometry, others=others).blocks()
    return sum(int(block.latency_ns.sum()) for block in blocks)


def renamed(trace: Trace) -> Trace:
    """The same routing over experts of other numbers, the same ones for the trace and for what rules learn from."""
    new = np.random.default_rng(trace.num_experts).permutation(trace.num_experts)
    old = np.argsort(new)

    def table(scores: ScoreTable | None) -> ScoreTable | None:
        if scores is None:
            return None
        values = np.asarray(scores.values)
        if scores.ids is None:
            return replace(scores, values=np.ascontiguousarray(values[..., old]))
        return replace(scores, ids=new[np.asarray(scores.ids)].astype(scores.ids.dtype))

    ids, similarity = np.asarray(trace.topk_ids), trace.expert_similarity
    return replace(
        trace,
        topk_ids=new[ids].astype(ids.dtype),
        router_logits=table(trace.router_logits),
        selection_scores=table(trace.selection_scores),
        lookahead_before=table(trace.lookahead_before),
        lookahead_after=table(trace.lookahead_after),
        expert_similarity=None if similarity is None else np.asarray(similarity)[:, old][:, :, old],
        content_hash="",
    )
