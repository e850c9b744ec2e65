"""The search for policies: its splits, its log, its verdicts, and the bound on short windows, by hand."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

import sim
from policies.base import Eviction
from policies.prefetch.none import NoPrefetch
from policies.state import DECODE
from scripts.studies.search.bound import Window, one_layer, optimum
from scripts.studies.search.data import TRAIN, VALIDATION, Source, embedded, fewer_ranks
from scripts.studies.search.places import Place, searched, unseen
from scripts.studies.search.replays import Lead, Measured, Rivals, leads, measure, shipped
from scripts.studies.search.search import Entry, Task, promising, read_log, score_of, search
from scripts.studies.search.space import SHIPPED, draw, policy_at
from scripts.studies.search.verdict import gap, paired, ratio, sentence
from sim.assembly.catalogue import load_policy
from tests.support.random_traces import random_trace
from traces.errors import UserError
from traces.format.softmax import softmax

PLACE = Place("s1_rtx3080ti", "deepseek_moe_16b", 0.35, 0.25, 4e-4, 0.73, 1)


class Drawn:
    """A trial that draws evenly, without Optuna."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def suggest_categorical(self, name, choices):
        return choices[self.random.integers(len(choices))]

    def suggest_float(self, name, low, high, *, log=False):
        return float(self.random.uniform(low, high))

    def suggest_int(self, name, low, high, *, log=False):
        return int(self.random.integers(low, high + 1))


def test_no_request_and_no_machine_is_on_both_sides():
    assert sorted([*TRAIN, *VALIDATION]) == list(range(24))
    known = {place.hardware for place in searched()}
    assert len(searched()) == len(set(searched())) == 108 and not known & {place.hardware for place in unseen()}
    assert all(
        one.batch == 1 and replace(one, batch=3) == three for one, three in zip(*[iter(unseen())] * 2, strict=True)
    )


def test_every_candidate_is_a_policy_and_the_first_is_the_shipped_one():
    for seed in range(40):
        policy = policy_at(draw(Drawn(seed)))(PLACE)
        assert isinstance(policy.prefetch, NoPrefetch) == (type(policy.prediction).__name__ == "NoPrediction")
    shipped_one, candidate = shipped("importance_plus")(PLACE), policy_at(SHIPPED)(PLACE)
    assert shipped_one.parts() == candidate.parts()


def test_the_last_rank_becomes_the_best_expert_outside_the_choice():
    trace = random_trace(3, num_experts=8, top_k=4)
    weights = np.sort(softmax(np.random.default_rng(0).normal(size=trace.topk_ids.shape).astype(np.float32)))[..., ::-1]
    found = fewer_ranks(replace(trace, topk_weights=weights.astype(np.float16), score_function="softmax_topk"))
    scores = found.gate_scores(0, 5)
    assert found.top_k == found.topk_ids.shape[2] == 3 and found.geometry.num_experts == 8
    order = np.argsort(-scores, axis=-1)[..., :4]
    np.testing.assert_array_equal(order, trace.topk_ids[:5])
    assert scores.sum(axis=-1) == pytest.approx(1, abs=2e-3) and np.sort(scores)[..., :4] == pytest.approx(0)
    assert found.topk_weights.astype(float).sum(axis=-1) == pytest.approx(1, abs=2e-3)


def test_a_log_that_a_kill_cut_short_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    line = json.dumps({"number": 0, "knobs": dict(SHIPPED), "scores": [0.1, 0.2], "cpu_s": 1.0})
    path.write_text(f"{line}\n{line[:30]}")
    assert [one.scores for one in read_log(path)] == [(0.1, 0.2)]
    assert path.read_text() == f"{line}\n"
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"log.jsonl:1: is no candidate of a search"):
        read_log(path)


def test_a_quarter_goes_on():
    done = [Entry(i, {}, (0.1 * i,), 0.0) for i in range(8)]
    assert [promising(done, [score]) for score in (-1.0, 0.15, 0.25)] == [True, True, False]
    assert promising([], [5.0]), "the first one always"


def lead(ours, theirs, lost=0.1, allowed=0.1):
    measured = [Measured(np.array(times, float), np.ones(len(times)), lost) for times in (ours, theirs)]
    return Lead(PLACE, measured[0], "rival", measured[1], allowed)


def test_the_score_is_the_mean_logarithm_and_what_is_overspent():
    assert score_of([lead([8, 8], [10, 10]), lead([5], [4])]) == pytest.approx(0.0)
    assert score_of([lead([8], [8], lost=0.2)]) == pytest.approx(np.log(2))
    assert score_of([lead([8], [8], lost=0.05)]) == pytest.approx(0.0)


def test_a_planted_overfit_is_flagged_and_a_lead_that_holds_is_not():
    random = np.random.default_rng(0)

    def found(factor):
        theirs = random.uniform(9, 11, 4)
        return [lead(factor * theirs * random.uniform(0.99, 1.01, 4), theirs) for _ in range(6)]

    planted = gap(found(0.7), found(0.95))
    assert planted.overfit and planted.value == pytest.approx(0.95 / 0.7, rel=0.02)
    assert planted.p == pytest.approx(1 / 70), "of all ways to exchange four blocks with four one is as extreme"
    assert not gap(found(0.7), found(0.705)).overfit
    one = ratio(found(0.8))
    assert one.value == pytest.approx(0.8, rel=0.01) and one.low < one.value < one.high


def test_a_null_result_is_said_with_its_interval():
    theirs = np.array([9.0, 10.0, 11.0, 10.0])
    noise = np.array([1.02, 0.97, 1.01, 1.0])
    same = paired([lead(theirs * noise, theirs)], [lead(theirs, theirs)])
    assert sentence(same, "it").startswith("null result: it is not distinguishable, ")
    less = paired([lead(0.8 * theirs * noise, theirs)], [lead(theirs, theirs)])
    assert sentence(less, "it").startswith("it takes less time, -2")


def window(ids, cpu, copy=10.0, slots=1, fixed=0.0, shares=None):
    ids = np.array(ids).reshape(len(ids), -1)
    shares = np.full(ids.shape, 1 / ids.shape[1]) if shares is None else np.array(shares)
    return Window(ids, shares, slots, copy, cpu, fixed)


@pytest.mark.parametrize(
    ("ids", "cpu", "more", "loss", "early", "expected"),
    [
        ([0, 1, 0], 4, {}, 0.0, False, 12),  # three times the CPU
        ([0, 1, 0], 8, {}, 0.0, False, 18),  # copied once: 10 + 8 + 0
        ([[0, 1], [0, 1]], 8, {"slots": 2}, 0.0, False, 18),  # one each way, 10; then 0 is there and 1 takes 8
        ([0, 1, 0], 8, {"fixed": 5.0}, 0.0, False, 33),
        (
            [0, 1, 0],
            8,
            {"fixed": 5.0},
            0.0,
            True,
            28,
        ),  # 0 by the CPU beside a copy of 1; 5 more for one of 0: 8 + 5 + 3 * 5
        ([0, 1, 2], 8, {}, 1 / 3, False, 16),  # one of three may be given up
        ([[0, 1]], 50, {"shares": [[0.7, 0.3]]}, 0.3, False, 10),
        ([[0, 1]], 50, {"shares": [[0.7, 0.3]]}, 0.29, False, 20),
    ],
)
def test_the_optimum_of_a_window_by_hand(ids, cpu, more, loss, early, expected):
    found = optimum(window(ids, cpu, **more), loss, early)
    assert found.bound_ns == pytest.approx(expected) and found.found_ns == pytest.approx(expected)


def test_a_window_is_one_layer_of_the_first_decode_tokens():
    trace = embedded(range(2)).trace
    part = one_layer(trace, 1, 5, 2)
    first = int(trace.request_offsets[1] + np.flatnonzero(trace.phase[trace.request_offsets[1] :] == DECODE)[0])
    np.testing.assert_array_equal(part.topk_ids[:, 0], trace.topk_ids[first : first + 5, 2])
    assert part.num_layers == 1 and part.num_tokens == 5


@pytest.mark.slow
def test_the_study_measures_what_a_replay_of_the_library_gives():
    source, policy = embedded(range(3)), load_policy("importance_plus")
    found = measure(policy, source, PLACE)
    runtime = {"host_s_per_layer": PLACE.host_s, "decision_s_per_layer": 0.0}
    machine = PLACE.machine(source.geometry(PLACE.model))
    hardware = {name: machine.figure(name) for name in ("cpu_memory_bytes_per_s", "cpu_core_bytes_per_s")}
    result = sim.replay(
        source.trace, policy="importance_plus", cache=0.25, hardware=hardware, runtime=runtime, model=PLACE.model
    )
    assert found.lost == result.metrics["decode.lost_gate_mass"]
    assert found.tpot_ns == pytest.approx(1e9 * result.metrics["tpot_s.mean"], rel=1e-6)


@dataclass(frozen=True)
class Memorised(Eviction):
    """Belady's rule for the requests that it was given, whatever is replayed: a rule that learned them by heart."""

    def memory_size(self, num_layers, num_experts, num_ranks):
        return LEARNED.size

    def initial_memory(self, geometry, similarity, others):
        return LEARNED.reshape(-1).copy()

    def touch(self, state, memory):
        row = min(int(state.now) - 1, memory.size // state.num_experts - 1) * state.num_experts
        for expert in range(state.num_experts):
            state.priority[state.layer, expert] = -memory[row + expert]


def next_uses(trace):
    """[T * L, E] in how many steps of its layer each expert is routed next."""
    steps, layers, experts = trace.num_tokens, trace.num_layers, trace.num_experts
    found = np.full((steps, layers, experts), 1e6)
    for step, later in reversed([*pairwise(range(steps))]):
        for layer in range(layers):
            found[step, layer] = found[later, layer] + 1
            found[step, layer, trace.topk_ids[later, layer]] = 1
    return found.reshape(steps * layers, experts)


LEARNED = np.zeros((1, 1))


@pytest.mark.slow
def test_a_rule_that_learned_the_training_requests_by_heart_is_flagged(monkeypatch):
    sides = [
        Source("random", random_trace(seed, num_experts=32, prompts=(0,) * 12, decodes=(20,) * 12)) for seed in (1, 2)
    ]
    monkeypatch.setitem(globals(), "LEARNED", next_uses(sides[0].trace))
    place, rivals = replace(PLACE, fraction=0.5), Rivals()

    def judged(eviction):
        policy = replace(load_policy("lru"), eviction=eviction)
        return gap(*(leads(lambda at: policy, side, [place], rivals) for side in sides))

    assert judged(Memorised()).overfit
    assert not judged(load_policy("lru").eviction).overfit


@pytest.mark.slow
def test_a_search_resumes_where_it_was_killed(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr("scripts.studies.search.search.RUNGS", ((3, 1), (3, 2)))
    task, path = Task(embedded(range(3)), searched()), tmp_path / "log.jsonl"
    first = search(task, path, 3, 0, print)
    path.write_text(path.read_text() + '{"number": 3, "kno')
    found = search(task, path, 5, 0, print)
    assert found[:3] == first and [one.number for one in found] == list(range(5))
    assert first[0].knobs == SHIPPED
