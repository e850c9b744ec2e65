"""Experts modules of families that choose in another way, made to receive the chosen ids and weights like all others.

Llama-4 multiplies what enters every expert by its score, zero for those not chosen, and runs them all. Here its experts
module is given ids and weights and builds these scores itself. JetMoE has no experts module: its blocks are given one
that holds their matrices. Both compute the same numbers in the same order: logits stay as they were to the last bit.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LLAMA4, JETMOE, JETMOE_ATTENTION = "Llama4TextMoe", "JetMoeMoE", "JetMoeMoA"


def adapt(model: torch.nn.Module) -> None:
    """Change the blocks of such families in place; twice does nothing more."""
    for module in model.modules():
        if type(module).__name__ == LLAMA4 and "forward" not in vars(module):
            block: Any = module
            block.experts.forward = MethodType(_scaled_experts, block.experts)
            block.forward = MethodType(_chosen_block, block)
        elif type(module).__name__ == JETMOE and "forward" not in vars(module):
            block = module
            block.experts = _jetmoe_experts(block)
            block.forward = MethodType(_jetmoe_block, block)


def left_out(model: torch.nn.Module) -> list[str]:
    """Sentences on routing of such a model that is not recorded."""
    if any(type(module).__name__ == JETMOE_ATTENTION for module in model.modules()):
        return [
            "attention of this family is made of experts, too, whose choice is not recorded: attention_bytes count all "
            "of them as read in every step"
        ]
    return []


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
    total: torch.Tensor = out.reshape(count, -1, out.shape[-1]).sum(dim=0)
    return total


def _jetmoe_block(self: Any, layer_input: torch.Tensor) -> torch.Tensor:
    """JetMoeMoE.forward, with the choice named: hidden states [B, S, H] -> the same."""
    flat = layer_input.reshape(-1, layer_input.shape[-1])
    top, ids = self.router(flat)[4].topk(self.router.top_k, dim=1)
    out: torch.Tensor = self.experts(flat, ids, top.softmax(dim=1).type_as(flat))
    whole: torch.Tensor = out.view(*layer_input.shape[:-1], self.input_size) + self.bias
    return whole


def _jetmoe_experts(block: Any) -> torch.nn.Module:
    """An experts module that holds the matrices of a JetMoE block."""
    import torch

    class JetMoeChosenExperts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_experts = int(block.router.num_experts)
            self.input_linear, self.output_linear = block.input_linear, block.output_linear
            self.activation = block.activation

        def forward(
            self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
        ) -> torch.Tensor:
            """The weighted sum [T, H] over the chosen experts; ids and weights [T, K]."""
            chosen = top_k_index.flatten()
            order = chosen.sort(0).indices
            rows = order.div(top_k_index.shape[1], rounding_mode="trunc")
            sizes = torch.bincount(chosen, minlength=self.num_experts).tolist()
            gate, up = self.input_linear(hidden_states[rows], sizes).chunk(2, dim=-1)
            out = self.output_linear(self.activation(gate) * up, sizes) * top_k_weights.flatten()[order][:, None]
            return torch.zeros_like(hidden_states, dtype=out.dtype).index_add(0, rows, out)

    return JetMoeChosenExperts()
