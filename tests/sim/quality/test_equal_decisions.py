"""The parallel pass decides what decoding decides; without substitution the live device is the replay of the trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.base import Part, Policy
from policies.eviction.smoe_code import SmoeCode
from policies.needs import Need
from policies.prediction.lookahead import Lookahead
from policies.prefetch.top_score import TopScore
from policies.state import DROPPED
from policies.substitution.expert_budget import ExpertBudget
from sim.assembly.catalogue import load_part, rule_names
from sim.assembly.replay import Replay
from sim.live.weights import INHERIT
from sim.quality.conditions import check_parallel, parallel_obstacle
from sim.quality.decode import CoSimulation, decode
from sim.quality.drive import AS_POLICY, DROP, RANDOM
from sim.quality.loop import Variant
from sim.quality.parallel import parallel
from sim.quality.settings import GenerationConfig
from tests.sim.quality.small import BAND, study_of
from tests.support.replays import BARE, POLICIES
from traces.errors import UserError

BUDGET = replace(BARE, name="budget", substitution=ExpertBudget(budget=4))
VARIANTS = (Variant("policy"), Variant("d", DROP), Variant("r", RANDOM), Variant("i", AS_POLICY, INHERIT))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def runs(rule: Part) -> bool:
    """Whether nothing that the rule needs is out of a running model's reach; similarity is measured before."""
    return all(need.unless_running is None or need == Need.EXPERT_SIMILARITY for need in rule.all_needs())


def one_layer_rules() -> list[tuple[str, str]]:
    """(part, yaml) of every rule that claims to look at one layer only and can run in a model."""
    parts = ("eviction", "substitution", "assignment")
    rules = [(part, rule) for part in parts for rule in rule_names(part)]
    return [(part, rule) for part, rule in rules if load_part(part, rule).one_layer and runs(load_part(part, rule))]


def policy_with(part: str, rule: str) -> Policy:
    """LRU with score bands and a CPU, one part exchanged."""
    return replace(BAND, name=rule, **{part: load_part(part, rule, alpha=0.6)})


@pytest.mark.parametrize(("part", "rule"), one_layer_rules(), ids=lambda value: value)
def test_one_parallel_pass_decides_as_decoding_does(part: str, rule: str) -> None:
    study = study_of(policy=policy_with(part, rule))
    passes = parallel(study.loop, study.windows.tokens[:2], Variant("policy"))
    for window, passed in enumerate(passes):
        steps = decode(study.loop, study.windows.tokens[window], Variant("policy"), window)
        assert np.array_equal(passed.executed, steps.executed)
        assert np.array_equal(passed.arrays.ids, steps.arrays.ids)
        assert passed.timing is not None and steps.timing is not None
        assert np.array_equal(passed.timing.counts, steps.timing.counts)
        assert np.array_equal(passed.timing.latency_ns, steps.timing.latency_ns)
        torch.testing.assert_close(passed.logits, steps.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step_tokens", [2, 5])
@pytest.mark.parametrize("policy", [BUDGET, BAND], ids=lambda policy: policy.name)
def test_steps_of_several_positions_decide_alike_in_both_ways(policy: Policy, step_tokens: int) -> None:
    study = study_of(policy=policy, step_tokens=step_tokens)
    assert study.parallel
    for number, passed in enumerate(parallel(study.loop, study.windows.tokens[:2], Variant("policy"))):
        steps = decode(study.loop, study.windows.tokens[number], Variant("policy"), number)
        assert np.array_equal(passed.executed, steps.executed)
        assert (passed.executed != passed.arrays.ids).any()
        assert passed.timing is not None and steps.timing is not None
        assert len(steps.timing.latency_ns) == -(-24 // step_tokens)
        assert np.array_equal(passed.timing.counts, steps.timing.counts)
        assert np.array_equal(passed.timing.latency_ns, steps.timing.latency_ns)
        torch.testing.assert_close(passed.logits, steps.logits, atol=1e-4, rtol=1e-4)


def test_a_budget_keeps_the_greatest_mass_of_all_positions_of_a_step() -> None:
    """Four experts of each step of three positions, those of the greatest sum of gate scores over its tokens."""
    study = study_of(policy=BUDGET, step_tokens=3)
    (passed,) = parallel(study.loop, study.windows.tokens[:1], Variant("policy"))
    ids, scores, dropped = passed.arrays.ids, passed.arrays.scores, passed.executed == DROPPED
    bounded = 0
    for start in range(0, 24, 3):
        for layer in range(ids.shape[1]):
            routed, weighs = ids[start : start + 3, layer], scores[start : start + 3, layer]
            mass = {e: sum(weighs[t, e] for t in range(3) if e in routed[t]) for e in np.unique(routed)}
            kept = sorted(mass, key=lambda e: -mass[e])[:4]
            for token in range(3):
                wanted = ~np.isin(routed[token], kept)
                wanted[0] &= not wanted.all()  # a token that would lose all of its experts keeps its best
                assert dropped[start + token, layer].tolist() == wanted.tolist()
            bounded += len(mass) > 4
    assert bounded


def test_the_drafts_of_a_step_are_what_a_budget_asks_for() -> None:
    with pytest.raises(UserError, match=r"ExpertBudget decides over the drafts.*give step_tokens=1\+N"):
        study_of(policy=BUDGET)
    with pytest.raises(UserError, match=r"step_tokens=25: at most tokens=24"):
        study_of(step_tokens=25)
    with pytest.raises(UserError, match=r"generation.windows=3: a free continuation has no drafts"):
        study_of(step_tokens=2, generation=GenerationConfig(windows=3, prompt_tokens=6, new_tokens=5))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_families_and_stand_ins_decide_alike_in_both_ways(family: str, variant: Variant) -> None:
    study = study_of(family)
    (passed,) = parallel(study.loop, study.windows.tokens[:1], variant)
    decoded = decode(study.loop, study.windows.tokens[0], variant)
    assert np.array_equal(passed.executed, decoded.executed)
    assert (passed.executed != passed.arrays.ids).any()
    torch.testing.assert_close(passed.logits, decoded.logits, atol=2e-4, rtol=1e-3)


def test_a_cache_that_is_carried_over_decides_alike_too() -> None:
    study = study_of(reset="never")
    passes = parallel(study.loop, study.windows.tokens[:3], Variant("policy"))
    study.loop.live.reset()
    for window, passed in enumerate(passes):
        assert np.array_equal(
            passed.executed, decode(study.loop, study.windows.tokens[window], Variant("policy"), window).executed
        )


def whole_replay(study, policy: Policy, tokens: np.ndarray) -> tuple[Replay, np.ndarray]:
    """The recorded trace of windows [N, S] in lockstep, replayed by the SimPy engine -> latency of each step."""
    from sim.assembly.replay import DeviceSetup, assemble
    from sim.config import RunConfig
    from sim.machine.capacity import CacheConfig
    from sim.quality.calibration import record_windows
    from sim.quality.windows import Windows
    from tests.sim.quality.small import loaded

    count = len(tokens)
    trace, _ = record_windows(loaded("olmoe"), Windows(tokens, ("d",) * count, ("a",) * count), False, 0)
    run = RunConfig(engine="simpy", batch_size=count)
    setup = DeviceSetup(policy, study.template.setup.machine, CacheConfig(slots_per_layer=4), run)
    replay = assemble(trace, setup, study.template.geometry, as_decode=True)
    results = list(replay.blocks())
    return replay, np.concatenate([result.latency_ns for result in results])


@pytest.mark.parametrize("name", ["lru", "cpu", "prefetch", "prefetch_end"])
def test_without_substitution_co_simulation_is_the_replay_of_the_trace(name: str) -> None:
    policy = POLICIES[name]
    study = study_of(policy=policy, mode="decode", slots=4)
    run = decode(study.loop, study.windows.tokens[0], Variant("policy"))
    replay, latency_ns = whole_replay(study, policy, study.windows.tokens[:1])
    assert run.timing is not None
    assert run.timing.latency_ns.tolist() == latency_ns.tolist()
    assert run.timing.counts.sum(axis=0).tolist() == replay.device.counts.tolist()
    assert run.timing.counts[:, 0].sum() > 0  # something hits
    if name.startswith("prefetch"):
        assert replay.device.counts[15] > 0  # and something is prefetched


@pytest.mark.parametrize("name", ["cpu", "prefetch_end"])
def test_windows_in_lockstep_on_one_device_are_the_replay_of_a_batch(name: str) -> None:
    """Two devices of two windows each, whose copies differ in time."""
    policy = POLICIES[name]
    study = study_of(policy=policy, mode="decode", slots=4)
    slow = study_of(policy=policy, mode="decode", slots=4)
    slow.loop.live.clock.arrays["copy_ns"][...] *= 3
    devices, tokens = [slow.loop.live, study.loop.live], study.windows.tokens
    with CoSimulation(study.loop, [Variant("policy")] * 2, members=2, devices=devices) as run:
        for place in range(tokens.shape[1]):
            run.step(tokens[:, place : place + 1])
    replay, latency_ns = whole_replay(study, policy, tokens[2:])
    assert run.rows[1].timing().latency_ns.tolist() == latency_ns.tolist()
    assert run.rows[1].timing().counts.sum(axis=0).tolist() == replay.device.counts.tolist()
    assert run.rows[0].timing().latency_ns.sum() > latency_ns.sum()


def test_late_prefetches_change_what_is_substituted() -> None:
    prefetching = replace(BAND, name="p", prediction=Lookahead(), prefetch=TopScore())
    fast, slow = study_of(policy=prefetching, mode="decode"), study_of(policy=prefetching, mode="decode")
    window = fast.windows.tokens[0]
    fast.loop.live.clock.arrays["copy_ns"][...] = 0
    in_time = decode(fast.loop, window, Variant("policy"))
    slow.loop.live.clock.arrays["copy_ns"][...] *= 1000
    late = decode(slow.loop, window, Variant("policy"))
    assert late.timing is not None and in_time.timing is not None
    assert late.timing.latency_ns.sum() > in_time.timing.latency_ns.sum()
    assert not np.array_equal(late.executed, in_time.executed)


def test_policies_that_work_across_layers_are_refused_by_name() -> None:
    from sim.machine.capacity import CacheConfig

    prefetching = replace(BARE, name="p", prediction=Lookahead(), prefetch=TopScore())
    with pytest.raises(UserError, match=r"mode=parallel is not exact here: Lookahead of policy p works across layers"):
        check_parallel(prefetching, CacheConfig())
    with pytest.raises(UserError, match=r"cache\.scope=global"):
        check_parallel(BARE, CacheConfig(scope="global"))
    assert "SmoeCode" in (parallel_obstacle(replace(BARE, eviction=SmoeCode()), CacheConfig()) or "")
    with pytest.raises(UserError, match=r"Belady sees the future"):
        study_of(policy=POLICIES["belady"])
