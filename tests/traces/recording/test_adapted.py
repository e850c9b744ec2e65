"""Families whose blocks are changed for recording compute what they did."""

import pytest
import torch

from scripts.studies.families.tiny import tiny_model
from traces.recording.adapted import adapt
from traces.recording.tap import Tap


@pytest.mark.parametrize("family", ["llama4_text", "jetmoe"])
def test_the_same_logits_to_the_last_bit_and_other_experts_where_they_are_asked_for(family: str) -> None:
    model, tokens = tiny_model(family), torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        adapt(model)
        adapt(model)
        assert torch.equal(model(input_ids=tokens).logits, before)
        seen = []
        with Tap(model, lambda routing: seen.append(routing)):
            assert torch.equal(model(input_ids=tokens).logits, before)
        assert len(seen) == 4 and seen[0].topk_ids.shape == (40, 3)
        logits = seen[0].router_logits.gather(1, seen[0].topk_ids)
        weights = logits.sigmoid() if family == "llama4_text" else logits.softmax(-1)
        torch.testing.assert_close(seen[0].topk_weights, weights)
        with Tap(model, lambda routing: ((routing.topk_ids + 1) % 8, routing.topk_weights)):
            assert not torch.equal(model(input_ids=tokens).logits, before)
