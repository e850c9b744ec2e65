"""Families whose blocks are changed for recording compute what they did."""

import torch

from scripts.studies.families.tiny import tiny_model
from traces.recording.adapted import adapt
from traces.recording.tap import Tap


def test_llama_4_gives_the_same_logits_to_the_last_bit_and_takes_other_experts() -> None:
    model, tokens = tiny_model("llama4_text"), torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        adapt(model)
        adapt(model)
        assert torch.equal(model(input_ids=tokens).logits, before)
        seen = []
        with Tap(model, lambda routing: seen.append(routing)):
            assert torch.equal(model(input_ids=tokens).logits, before)
        assert len(seen) == 4 and seen[0].topk_ids.shape == (40, 3)
        torch.testing.assert_close(seen[0].topk_weights, seen[0].router_logits.gather(1, seen[0].topk_ids).sigmoid())
        with Tap(model, lambda routing: ((routing.topk_ids + 1) % 8, routing.topk_weights)):
            assert not torch.equal(model(input_ids=tokens).logits, before)
