"""Experts modules of families that choose in another way, made to receive the chosen ids and weights like all others.

Llama-4 multiplies what enters every expert by its score, zero for those not chosen, and runs them all. Here its experts
module is given ids and weights and builds these scores itself: the same numbers in the same order, so that logits stay
as they were to the last bit.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LLAMA4 = "Llama4TextMoe"


def adapt(model: torch.nn.Module) -> None:
    """Change the blocks of such families in place; twice does nothing more."""
    for module in model.modules():
        if type(module).__name__ == LLAMA4 and "forward" not in vars(module):
            block: Any = module
            block.experts.forward = MethodType(_scaled_experts, block.experts)
            block.forward = MethodType(_chosen_block, block)


def _chosen_block(self: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Llama4TextMoe.forward, with the choice named: hidden states [..., H] -> ([T, H], logits [T, E])."""
    flat = hidden_states.reshape(-1, self.hidden_dim)
    scores, logits = self.router(flat)
    ids = logits.topk(self.top_k, dim=1).indices
    routed = self.experts(flat, ids, scores.gather(1, ids))
    return self.shared_expert(flat).add_(routed), logits


def _scaled_experts(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The sum [T, H] over all experts of what each makes of its scaled input; ids and weights [T, K]."""
    count = self.num_experts
    scores = top_k_weights.new_zeros(len(hidden_states), count).scatter_(1, top_k_index, top_k_weights)
    scaled = hidden_states.repeat(count, 1) * scores.transpose(0, 1).reshape(-1, 1)
    out: torch.Tensor = type(self).forward(self, scaled)
    return out.reshape(count, -1, out.shape[-1]).sum(dim=0)
