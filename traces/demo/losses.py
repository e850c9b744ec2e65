"""Differentiable statistics of routing that the demo training adds to its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def balance_loss(logits: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
    """Switch-style balance of ONE layer: E * sum_e load_e * mean score_e, equal to 1 where all experts are used alike.

    Per layer on purpose: summing loads over layers first, as the library's own auxiliary loss does, lets single layers
    stay skewed. `logits` [T, E], `topk_ids` [T, K]; load_e is the share of all choices.
    Source: Fedus et al., Switch Transformers, section 2.2, https://arxiv.org/abs/2101.03961 (there K = 1).
    """
    import torch

    num_experts = logits.shape[-1]
    load = torch.bincount(topk_ids.flatten(), minlength=num_experts).float() / topk_ids.numel()
    mean_score = logits.float().softmax(-1).mean(0)
    return num_experts * (load * mean_score).sum()


def pooled_balance_loss(routed: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """The library's own auxiliary loss: loads (choices per token) and mean scores over all layers together.

    Layers may stay skewed as long as their skews cancel. `routed`: (logits [T, E], ids [T, K]) of each layer.
    Source: transformers, `load_balancing_loss_func` of modeling_olmoe.
    """
    import torch

    logits, ids = torch.cat([logits for logits, _ in routed]), torch.cat([ids for _, ids in routed])
    return balance_loss(logits, ids) * ids.shape[-1]


def gate_slope(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Gate slope h of one layer: mean over tokens and active experts of ln(S_j / S_{k+1}); `logits` [T, E].

    The softmax normaliser cancels in the ratio, so differences of logits are enough.
    """
    best = logits.float().topk(top_k + 1, dim=-1).values
    return (best[:, :-1] - best[:, -1:]).mean()
