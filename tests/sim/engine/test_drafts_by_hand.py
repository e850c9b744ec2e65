"""Steps that verify drafts on both clocks: nanoseconds, experts and metrics worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from policies.prediction.drafts import Drafts
from policies.prefetch.layers_ahead import LayersAhead
from policies.state import DECODE
from policies.substitution.expert_budget import ExpertBudget
from sim.metrics.step_table import StepTable
from sim.run.beside_plain import beside_plain
from tests.support.random_traces import random_trace
from tests.support.replays import BARE, DEMAND_ONLY, machine, replay_of
from tests.support.timelines import TIMED, rows
from traces.errors import UserError

A, B, C = [[0]], [[1]], [[2]]
"""Tokens of one layer, one expert each."""


def ran(trace, policy, hardware=None, **knobs):
    replay = replay_of(trace, policy, hardware, **knobs)
    table = StepTable(replay).run()
    return replay, table, table.metrics()


@pytest.mark.parametrize("engine", TIMED)
def test_a_step_fetches_the_union_and_rejected_rows_come_again(engine):
    """A B A C A, two drafts never accepted, three slots, 1000 ns a copy, 1000 ns an expert.

    Steps A B A, B A C, A C A, C A and A. In the first A and B arrive at 1000 and 2000, each runs for 1000: 3000 ns. In
    the second B and A are there and run until 2000, C has come at 1000. Later nothing is missing.
    """
    trace = rows(A, B, A, C, A)
    knobs = {"engine": engine, "slots_per_layer": 3, "speculate": {"tokens": 2, "acceptance": 0.0, "draft": "ngram"}}
    _, table, metrics = ran(trace, "lru", machine(gpu_memory_bytes_per_s=1e9), **knobs)
    columns = table.columns()
    assert columns["demanded"].tolist() == [2, 3, 2, 2, 1]
    assert columns["demand_copies"].tolist() == [2, 1, 0, 0, 0]
    assert columns["latency_ns"].tolist() == [3000, 3000, 2000, 2000, 1000]
    assert columns["num_rows"].tolist() == [3, 3, 3, 2, 1]
    assert columns["num_tokens"].tolist() == [1] * 5 and columns["rejected_drafts"].tolist() == [2, 2, 2, 1, 0]
    assert metrics["tpot_s.mean"] == pytest.approx(11000e-9 / 5)
    assert metrics["tokens_per_s"] == pytest.approx(5 / 11000e-9)
    assert metrics["acceptance_rate"] == 0.0 and metrics["accepted_tokens_per_step"] == 1.0
    assert metrics["union_size"] == 2.0 and metrics["rolled_back_per_token"] == 7 / 5


@pytest.mark.parametrize("engine", TIMED)
def test_accepted_drafts_share_the_time_of_their_step(engine):
    """A B A C A with two drafts, all accepted: A B A, then C A: 3000 and 2000 ns for five tokens, three loads."""
    knobs = {"engine": engine, "slots_per_layer": 3, "speculate": {"tokens": 2, "acceptance": 1.0, "draft": "ngram"}}
    replay, table, metrics = ran(rows(A, B, A, C, A), "lru", machine(gpu_memory_bytes_per_s=1e9), **knobs)
    assert table.columns()["latency_ns"].tolist() == [3000, 2000]
    assert metrics["tpot_s.mean"] == pytest.approx(1000e-9) and metrics["itl_s.mean"] == pytest.approx(1000e-9)
    assert metrics["itl_s.p50"] == pytest.approx(1000e-9)
    assert metrics["loads_per_token"] == 3 / 5 and metrics["acceptance_rate"] == 1.0
    assert sum(metrics[f"time_s_per_token.{part}"] for part in ("expert", "link")) == pytest.approx(1000e-9)
    assert metrics["accepted_tokens_per_step"] == 5 / 2
    # without drafts: A and B cost 2000 each, A 1000, C 2000, A 1000: 8000 ns in five steps
    beside = beside_plain(replay, table)
    assert beside["verify_over_plain"] == pytest.approx(2500 / 1600)
    assert beside["speedup_over_plain"] == pytest.approx(8000 / 5000)
    assert beside["break_even_acceptance"] == pytest.approx((np.sqrt(1 + 4 * 0.5625) - 1) / 2)  # a + a^2 = .5625


@pytest.mark.parametrize("engine", TIMED)
def test_drafting_takes_its_passes_by_part(engine):
    """A draft of 3000 bytes at 1 byte/ns and 2 layers of 3 launches of 10 ns and 7 ns of host time each: per pass 3000
    of attention, 60 of launches, 14 of the host; two passes ahead of the first step, one ahead of the second."""
    hardware = machine(gpu_memory_bytes_per_s=1e9, launch_s=1e-8, kernels_per_layer=3, host_s_per_layer=7e-9)
    draft = {"tokens": 2, "acceptance": 1.0, "draft": "model", "draft_bytes": 3000, "draft_layers": 2}
    knobs = {"engine": engine, "slots_per_layer": 3}
    _, free, _ = ran(rows(A, B, A, C, A), "lru", hardware, **knobs, speculate=draft | {"draft": "ngram"})
    _, table, metrics = ran(rows(A, B, A, C, A), "lru", hardware, **knobs, speculate=draft)
    added = {
        name: (table.columns()[f"{name}_ns"] - free.columns()[f"{name}_ns"]).tolist()
        for name in ("attention", "launch", "host")
    }
    assert added == {"attention": [6000, 3000], "launch": [120, 60], "host": [28, 14]}
    assert table.columns()["draft_ns"].tolist() == [6148, 3074]
    assert metrics["draft_s_per_token"] == pytest.approx((6148 + 3074) / 5 * 1e-9)


@pytest.mark.parametrize("engine", TIMED)
def test_an_mtp_layer_is_derived_from_the_sizes_of_the_model(engine):
    """Attention 300, shared experts 70, head 4000, projection of width 1: 2 numbers of 2 bytes; one expert of 1000; its
    launches (2 kernels of 10 ns) and those of the layer (3)."""
    trace = rows(A, B, attention_bytes=(300,), shared_bytes=(70,), other_bytes=4000, hidden_size=1)
    hardware = machine(gpu_memory_bytes_per_s=1e9, launch_s=1e-8, kernels_per_layer=3, kernels_per_expert=2)
    draft = {"tokens": 1, "acceptance": 1.0, "draft": "mtp"}
    _, table, _ = ran(trace, "lru", hardware, engine=engine, slots_per_layer=2, speculate=draft)
    assert table.columns()["draft_ns"].tolist() == [300 + 70 + 4000 + 4 + 1000 + 20 + 30]


def test_an_mtp_layer_of_unknown_size_is_refused():
    trace = rows(A, B, attention_bytes=None)
    with pytest.raises(UserError, match=r"attention_bytes of test is not known: state speculate.draft_bytes"):
        replay_of(trace, "lru", slots_per_layer=2, speculate={"tokens": 1})


@pytest.mark.parametrize("policy", DEMAND_ONLY)
@pytest.mark.parametrize("tokens", [0, 1, 3, 7])
def test_three_engines_decide_alike(policy, tokens):
    """Rules that fetch on demand decide the same with a clock and without one, drafts or not, in a batch too."""
    trace = random_trace(5, prompts=(4, 0, 2), decodes=(9, 8, 3))
    found = []
    for engine in ("simpy", "compiled", "untimed"):
        knobs = {"engine": engine, "slots_per_layer": 4, "batch_size": 2}
        _, table, metrics = ran(
            trace, policy, **knobs, speculate={"tokens": tokens, "acceptance": 0.6, "draft": "ngram"}
        )
        columns = table.columns()
        assert columns["num_tokens"].sum() == trace.num_tokens
        assert metrics["num_tokens"] == trace.num_tokens
        found.append({name: column.tolist() for name, column in columns.items() if not name.endswith("_ns")})
    assert found[0] == found[1] == found[2]


def test_without_drafts_the_other_knobs_change_nothing():
    trace = random_trace(6)
    plain, same = (
        StepTable(replay_of(trace, "importance", slots_per_layer=4, speculate=knobs)).run()
        for knobs in ({}, {"tokens": 0, "acceptance": 0.1, "draft": "ngram", "draft_layers": 9})
    )
    assert plain.metrics() == same.metrics()
    assert plain.array().tolist() == same.array().tolist()
    assert not {"drafts", "num_rows"} & plain.columns().keys()


@pytest.mark.parametrize("engine", TIMED)
def test_experts_of_drafts_are_fetched_while_the_first_layer_runs(engine):
    """Two layers, two rows: the first layer fetches two experts, 1000 ns a copy, and runs each for 1000 ns until 3000.

    The link is free at 2000: with the experts of the drafts known, the copies of the second layer end at 3000 and 4000
    in place of 4000 and 5000.
    """
    trace = rows([[0], [2]], [[1], [3]])
    knobs = {"engine": engine, "slots_per_layer": 2}
    draft = {"tokens": 1, "acceptance": 1.0, "draft": "ngram"}
    hardware = machine(gpu_memory_bytes_per_s=1e9)
    sp_moe = replace(BARE, name="sp_moe", prediction=Drafts(fidelity=1.0), prefetch=LayersAhead())
    found = {}
    for policy in (BARE, sp_moe):
        _, table, _ = ran(trace, policy, hardware, **knobs, speculate=draft)
        found[policy.name] = table.columns()["latency_ns"].tolist()
        _, plain, _ = ran(trace, policy, hardware, **knobs)
        found[f"{policy.name}, no drafts"] = plain.columns()["latency_ns"].tolist()
    assert found["lru"] == [6000] and found["sp_moe"] == [5000]
    assert found["lru, no drafts"] == found["sp_moe, no drafts"] == [4000, 4000]


@pytest.mark.parametrize("engine", TIMED)
@pytest.mark.parametrize(("while_drafting", "latency_ns", "hits"), [(True, 6000, [4]), (False, 7000, [1])])
def test_copies_run_while_the_draft_is_at_work(engine, while_drafting, latency_ns, hits):
    """The same with a draft of 2000 ns: both experts of the first layer arrive meanwhile, those of the second while
    the first runs until 4000; it ends at 6000. Else the first layer's come at 3000 and 4000 and run until 5000, those
    of the second at 5000, as they are looked up, and at 6000, and the last runs until 7000."""
    trace = rows([[0], [2]], [[1], [3]])
    draft = {"tokens": 1, "acceptance": 1.0, "draft": "model", "draft_bytes": 2000}
    drafts = Drafts(fidelity=1.0, while_drafting=while_drafting)
    sp_moe = replace(BARE, name="sp_moe", prediction=drafts, prefetch=LayersAhead())
    _, table, _ = ran(
        trace, sp_moe, machine(gpu_memory_bytes_per_s=1e9), engine=engine, slots_per_layer=2, speculate=draft
    )
    columns = table.columns()
    assert columns["latency_ns"].tolist() == [latency_ns]
    assert columns["hits"].tolist() == hits
    assert columns["prefetch_copies"].tolist() == [4 if while_drafting else 2]


def test_a_budget_bounds_the_union_of_a_step_and_is_priced_in_gate_mass():
    trace = random_trace(8, prompts=(2,), decodes=(20,), num_experts=16, top_k=4)
    budget = replace(BARE, name="moe_spec", substitution=ExpertBudget(budget=6))
    draft = {"tokens": 3, "acceptance": 0.7, "draft": "ngram"}
    _, table, metrics = ran(trace, budget, engine="compiled", slots_per_layer=8, speculate=draft)
    columns = table.columns()
    decode = columns["phase"] == DECODE
    assert (columns["executed"][decode] <= 3 * (6 + 4)).all()  # a token that would lose all keeps its best
    assert columns["executed"][decode].sum() < columns["demanded"][decode].sum()
    assert 0 < metrics["decode.drop_rate"] < 1 and 0 < metrics["decode.lost_gate_mass"] < 1


def test_single_accesses_and_drafts_exclude_each_other():
    with pytest.raises(UserError, match=r"speculate.tokens=2.*cache.semantics=step"):
        replay_of(random_trace(0), "lru", slots_per_layer=3, semantics="sequential", speculate={"tokens": 2})


def test_rules_that_see_the_future_see_the_order_of_the_replay():
    """Rejected rows come again at once: with every draft rejected Belady finds the next use of a draft one step on."""
    trace = random_trace(7, num_layers=1, prompts=(0,), decodes=(12,))
    hits = {}
    for policy in ("lru", "belady_admit"):
        draft = {"tokens": 2, "acceptance": 0.5, "draft": "ngram"}
        *_, metrics = ran(trace, policy, engine="compiled", slots_per_layer=4, speculate=draft)
        hits[policy] = metrics["hit_rate"]
    assert hits["belady_admit"] >= hits["lru"]
