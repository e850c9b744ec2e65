"""Weights of substitutes, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.state import DROPPED
from sim.live.weights import INHERIT, OWN, GateRule
from tests.support.tiny_models import build
from traces.errors import UserError
from traces.recording.tap import Routing, Tap

LOGITS = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).log()  # softmax .4 .3 .2 .1


def routing(weights: list[float], logits: torch.Tensor = LOGITS) -> Routing:
    """One token routed to experts 0 and 1."""
    states = torch.zeros(1, 2)
    return Routing(0, states, torch.tensor([[0, 1]]), torch.tensor([weights]), logits, None, None)


def executed(gate: GateRule, weights: list[float], ids: list[int], scheme: str = OWN) -> tuple[list[int], list[float]]:
    replaced = gate.replacement(routing(weights), torch.tensor([[0, 1]]), torch.tensor([ids]), scheme)
    assert replaced is not None
    return replaced[0][0].tolist(), [round(value, 6) for value in replaced[1][0].tolist()]


def test_a_renormalising_router_shares_its_sum_among_those_executed() -> None:
    gate = GateRule.named("softmax_topk")
    assert executed(gate, [4 / 7, 3 / 7], [0, 2]) == ([0, 2], [round(4 / 6, 6), round(2 / 6, 6)])
    assert executed(gate, [8 / 7, 6 / 7], [0, 2]) == ([0, 2], [round(8 / 6, 6), round(4 / 6, 6)])  # scaled by 2
    assert executed(gate, [4 / 7, 3 / 7], [0, DROPPED]) == ([0, 1], [1.0, 0.0])


def test_a_router_that_does_not_renormalise_gives_each_expert_its_score() -> None:
    gate = GateRule.named("softmax")
    assert executed(gate, [0.4, 0.3], [0, 2]) == ([0, 2], [0.4, 0.2])
    assert executed(gate, [0.8, 0.6], [3, 2]) == ([3, 2], [0.2, 0.4])  # scaled by 2
    assert executed(gate, [0.4, 0.3], [0, DROPPED]) == ([0, 1], [0.4, 0.0])


def test_sigmoid_scores() -> None:
    logits = torch.tensor([[0.75, 0.5, 0.25, 0.1]]).logit()
    gate = GateRule.named("sigmoid_topk")
    replaced = gate.replacement(routing([1.2, 0.8], logits), torch.tensor([[0, 1]]), torch.tensor([[0, 2]]), OWN)
    assert replaced is not None
    assert replaced[1][0].tolist() == pytest.approx([1.5, 0.5])


def test_inherited_weights_are_those_of_the_replaced() -> None:
    for name in ("softmax", "softmax_topk", None):
        assert executed(GateRule.named(name), [0.6, 0.4], [0, 3], INHERIT) == ([0, 3], [0.6, 0.4])
    assert executed(GateRule.named("softmax_topk"), [0.6, 0.4], [DROPPED, 3], INHERIT) == ([0, 3], [0.0, 1.0])


def test_tokens_that_execute_what_was_routed_are_left_alone() -> None:
    gate = GateRule.named("softmax_topk")
    ids, weights = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0.123456789, 0.4], [4 / 7, 3 / 7]])
    both = Routing(0, torch.zeros(2, 2), ids, weights, LOGITS.repeat(2, 1), None, None)
    assert gate.replacement(both, ids, ids.clone(), OWN) is None
    replaced = gate.replacement(both, ids, torch.tensor([[0, 1], [0, 2]]), OWN)
    assert replaced is not None and torch.equal(replaced[1][0], weights[0])
    assert replaced[1][1].tolist() == pytest.approx([4 / 6, 2 / 6])


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss", "jamba"])
def test_the_rule_found_gives_the_weights_of_the_model_itself(family: str) -> None:
    """Asked for the routed experts, shifted by one rank, a gate rule must give the router's own weights."""
    from sim.quality.calibration import record_windows
    from tests.sim.quality.small import loaded, random_windows

    trace, _ = record_windows(loaded(family), random_windows(2, 16), False, 0)
    gate, seen = GateRule.named(trace.score_function), 0

    def compare(one: Routing) -> None:
        nonlocal seen
        rolled = one.topk_ids.roll(1, dims=-1)
        replaced = gate.replacement(one, one.topk_ids, rolled, OWN)
        assert replaced is not None
        torch.testing.assert_close(replaced[1], one.topk_weights.float().roll(1, dims=-1), atol=1e-5, rtol=1e-4)
        seen += 1

    model = build(family)
    with torch.no_grad(), Tap(model, compare):
        model(input_ids=torch.from_numpy(np.arange(1, 17)[None]), use_cache=False)
    assert seen == trace.num_layers


def test_an_unknown_router_cannot_give_own_weights() -> None:
    with pytest.raises(UserError, match="weights=own: how phimoe makes weights"):
        GateRule.named(None).check(OWN, "phimoe")
    GateRule.named(None).check(INHERIT, "phimoe")
