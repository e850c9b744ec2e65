"""A real model with its experts in slots: its logits are the ordinary model's, its decisions the simulator's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from policies.assignment.two_pointer import TwoPointer
from policies.prediction.oracle import Oracle
from policies.prefetch.top_score import TopScore
from sim.assembly.replay import DeviceSetup
from sim.config import RunConfig
from sim.engine.decision.counters import COUNTERS
from sim.execution.generate import generate
from sim.execution.live_model import OffloadedModel
from sim.execution.settings import RealSettings
from sim.machine.capacity import CacheConfig
from sim.machine.parts import PARTS
from sim.metrics.step_table import StepTable
from tests.support.devices import DEVICES, policy_of
from tests.support.replays import BARE, POLICIES, machine
from tests.support.tiny_models import build
from traces.errors import UserError

FAMILIES = [
    "olmoe",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "jamba",
]
PROMPTS = [[5, 17, 200, 3, 44, 9, 120], [7, 7, 8]]
NEW = 8


def settings(device="cpu"):
    return RealSettings(device=device, link_bytes_per_s=None)


def run(model, policy, device="cpu", slots=3, seed=0):
    setup = DeviceSetup(policy, machine(), CacheConfig(slots_per_layer=slots), RunConfig(seed=seed))
    return generate(model, PROMPTS, NEW, setup, settings(device))


def ordinary(model):
    """Greedy logits of the model as it is, per request, with one thread as in slots."""
    logits = []
    torch.set_num_threads(1)
    for prompt in PROMPTS:
        given, cache, seen = prompt, None, []
        for _ in range(NEW):
            with torch.no_grad():
                ids = torch.tensor([given], device=next(model.parameters()).device)
                output = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            seen.append(output.logits[0, -1].float().cpu().numpy())
            given = [int(seen[-1].argmax())]
        logits.append(np.stack(seen))
    return logits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_ordinary_models(family, device):
    """Three slots of eight experts: prompts overflow, decode steps evict all the time."""
    model = build(family).to(device)
    model.set_experts_implementation("eager")
    expected = ordinary(model)
    live = run(model, policy_of("lru"), device)
    exact = device == "cpu"
    for ours, theirs in zip(live.logits, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0 if exact else 1e-5)
    assert live.run.columns["evictions"].sum() > 0
    assert live.run.columns["overflow_steps"].sum() > 0
    after = ordinary(model)
    assert all(np.array_equal(a, b) for a, b in zip(after, expected, strict=True))


@pytest.mark.parametrize("policy", ["prefetch", "prefetch_end", "cpu", "random", "on_demand", "all_resident"])
def test_logits_do_not_depend_on_how_experts_come(policy):
    model = build("olmoe")
    live = run(model, policy_of(policy))
    for ours, theirs in zip(live.logits, ordinary(model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["lru", "lfu", "random", "score_window", "on_demand"])
def test_decisions_are_those_of_replaying_the_models_routing(policy):
    live = run(build("qwen3_moe"), policy_of(policy), seed=4)
    table = StepTable(live.replay)
    table.run()
    expected = table.columns()
    for name in ("step", "group", "request", "phase", "num_tokens", *COUNTERS):
        np.testing.assert_array_equal(live.run.columns[name], expected[name], err_msg=name)
    assert live.run.metrics["hit_rate"] == table.metrics()["hit_rate"]


def test_lookahead_prefetches_what_the_next_layers_gate_says():
    prefetch = run(build("olmoe"), POLICIES["prefetch"]).run.columns
    late = run(build("olmoe"), POLICIES["prefetch_end"]).run.columns
    for columns in (prefetch, late):
        assert columns["prefetch_copies"].sum() > 0
        assert columns["prefetch_used"].sum() + columns["prefetch_late"].sum() > 0


def test_substitution_changes_what_is_executed():
    live = run(build("olmoe"), POLICIES["substitute"])
    assert live.run.columns["substituted_ranks"].sum() > 0
    assert not np.array_equal(np.concatenate(live.logits), np.concatenate(ordinary(build("olmoe"))))


def test_times_of_a_generating_model_add_up():
    live = run(build("mixtral"), replace(BARE, assignment=TwoPointer()))
    parts = sum(live.run.columns[f"{part}_ns"] for part in PARTS)
    np.testing.assert_array_equal(parts, live.run.columns["latency_ns"])
    assert (live.run.columns["attention_ns"] > 0).all()
    assert live.run.layer_ns.shape == (2 * NEW, 3)
    assert [len(tokens) for tokens in live.tokens] == [NEW, NEW]


def test_a_model_in_slots_can_be_driven_step_by_step():
    """As generate does it, by hand: every forward pass is announced."""
    model = build("olmoe")
    expected = ordinary(model)[0][0]
    setup = DeviceSetup(POLICIES["lru"], machine(), CacheConfig(slots_per_layer=2))
    with OffloadedModel(model, setup, settings()) as live:
        live.begin_step(len(PROMPTS[0]), 0, 0)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].numpy()
        parts, layers = live.end_step()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert sum(parts) >= sum(layers) > 0


def test_rules_that_see_the_future_are_refused():
    with pytest.raises(UserError, match="cannot decide while generating"):
        run(build("olmoe"), POLICIES["belady"])
    oracle = replace(BARE, prediction=Oracle(), prefetch=TopScore())
    with pytest.raises(UserError, match="later layers"):
        run(build("olmoe"), oracle)


def test_a_dense_model_is_refused():
    import transformers

    dense = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        )
    )
    with pytest.raises(UserError, match="dense model"):
        run(dense, POLICIES["lru"])


def test_everything_but_routed_experts_moves():
    from sim.execution.offloaded import rest_of
    from traces.recording.moe_layers import find_moe_layers

    model = build("qwen2_moe")  # has shared experts too
    layers = find_moe_layers(model)
    moving = {id(tensor) for tensor in rest_of(model, layers)}
    stays = {name for name, parameter in model.named_parameters() if id(parameter) not in moving}
    assert stays == {f"{layer.name}.{name}" for layer in layers for name, _ in layer.experts.named_parameters()}
    assert {id(buffer) for buffer in model.buffers()} <= moving
