"""The numbers of experts are names: permuted, they change nothing but which of two equals goes first."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.random_traces import random_trace
from tests.support.replays import replay_of, run
from traces.format.trace import ScoreTable, Trace

SAME = ("decode.hit_rate", "hit_rate", "bytes_per_token", "tpot_s.mean", "ttft_s.mean", "lost_gate_mass")


def permuted(trace: Trace, seed: int) -> Trace:
    """The same routing over experts of other numbers."""
    new = np.random.default_rng(seed).permutation(trace.num_experts)
    old = np.argsort(new)

    def table(scores: ScoreTable | None) -> ScoreTable | None:
        return None if scores is None else ScoreTable(np.ascontiguousarray(scores.values[..., old]))

    return replace(
        trace,
        topk_ids=new[trace.topk_ids].astype(trace.topk_ids.dtype),
        router_logits=table(trace.router_logits),
        lookahead_before=table(trace.lookahead_before),
        lookahead_after=table(trace.lookahead_after),
        expert_similarity=np.ascontiguousarray(trace.expert_similarity[:, old][:, :, old]),
    )


@pytest.mark.parametrize("engine", ["simpy", "compiled"])
@pytest.mark.parametrize("policy", ["lru", "belady_admit", "on_demand", "all_resident"])
def test_one_expert_a_step_has_no_ties(policy, engine):
    """Every expert was used at another time and is used next at another one, if at all."""
    for seed in range(4):
        trace = random_trace(seed, top_k=1, prompts=(0, 0), decodes=(40, 30))
        found = [
            run(replay_of(one, policy, engine=engine, slots_per_layer=3)) for one in (trace, permuted(trace, seed))
        ]
        assert [found[0][name] for name in SAME] == [found[1][name] for name in SAME]


@pytest.mark.parametrize("policy", ["importance", "substitute", "score_window"])
def test_scores_that_differ_leave_few_ties(policy):
    trace = random_trace(5, num_experts=16, top_k=3, prompts=(0,), decodes=(300,))
    found = [run(replay_of(one, policy, engine="compiled", slots_per_layer=6)) for one in (trace, permuted(trace, 1))]
    assert found[1]["hit_rate"] == pytest.approx(found[0]["hit_rate"], abs=0.01)
